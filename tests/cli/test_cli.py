"""The command line in subprocesses: what goes where, and the exit codes."""

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_caches
from tiny import write_checkpoint
from typer.testing import CliRunner

import ellm.cli.main as cli
from ellm import LLM
from ellm.cli.doctor import overcommit_lines
from ellm.cli.main import main
from ellm.cli.terminal import note
from ellm.kernels import isa
from ellm.system import memory

ELLM = [sys.executable, "-m", "ellm.cli.main"]
ROOT = Path(__file__).parents[2]
STATS = ("--stats", "--max-tokens", 1, "--threads", 1)
QUESTION = "What is the capital of France? Answer in one sentence."


def ellm(*arguments, stdin="", **environment):
    measures = {"bench", "doctor", "--stats"} & set(arguments)
    command = [*(small_caches.ELLM if measures else ELLM), *map(str, arguments)]
    variables = os.environ | environment
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=120, env=variables)


def refused(result, code=2):
    """The one line of an error, without its prefix."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(r"(no model named.*\n)?ellm: [^\n]+\n", result.stderr), result.stderr
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", "LlamaForCausalLM")


def test_a_question_is_answered_on_stdout_alone():
    result = ellm("run", "smollm2", QUESTION)
    assert (result.returncode, result.stdout, result.stderr) == (0, "The capital of France is Paris.\n", "")


def test_without_a_model_smollm2_is_used_and_named():
    result = ellm("run", stdin=QUESTION)
    assert result.stdout == "The capital of France is Paris.\n"
    assert "smollm2" in result.stderr


def test_dash_reads_stdin_and_a_prompt_does_not():
    assert ellm("run", "smollm2", "-", stdin=QUESTION).stdout == "The capital of France is Paris.\n"
    assert ellm("run", "smollm2", QUESTION, stdin="ignored").stdout == "The capital of France is Paris.\n"


def test_raw_continues_the_prompt_itself():
    result = ellm("run", "smollm2", "The capital of France is", "--raw", "--max-tokens", 2)
    assert result.stdout == " Paris.\n"


def test_system_and_stop():
    result = ellm("run", "smollm2", QUESTION, "--stop", "France", "--stop", "never", "--system", "You are terse.")
    assert result.returncode == 0 and "France" not in result.stdout and result.stdout.strip()


def test_stats_name_the_speeds_the_limits_and_what_ran():
    result = ellm("run", "smollm2", QUESTION, "--stats")
    assert result.stdout == "The capital of France is Paris.\n"
    for pattern in (
        r"prefill +42 tokens, [\d.]+ tok/s, [\d.]+ TFLOP/s = \d+% of the [\d.]+ measured",
        r"decode +7 tokens, [\d.]+ tok/s, 0.09\d GB/step, [\d.]+ GB/s = \d+% of the [\d.]+ measured",
        r"drafts +lookup, \d+ tokens drafted, \d+ accepted, 8 tokens in \d+ steps\n",
        r"isa +\w+ \(.+\)",
        r"workers +\d+ threads? on cores? [\d,-]+ \(.+\)",
        r"weights +a token reads q4_1 [\d.]+ MB",
        r"layers\.\*\.qkv +30  qkv +q4_1\n",
        r"layers\.\*\.attend +30  attend +-\n",
    ):
        assert re.search(pattern, result.stderr), (pattern, result.stderr)


def test_speculate_changes_no_answer_and_stats_say_that_it_is_off(checkpoint):
    arguments = ["run", checkpoint, "x x x x x x", "--temperature", 0.5, "--seed", 1, "--max-tokens", 30]
    off = ellm(*arguments, "--speculate", "off", "--stats", "--threads", 1)
    assert off.returncode == 0 and off.stdout == ellm(*arguments, "--speculate", "lookup").stdout
    assert "drafts   off: as asked for\n" in off.stderr


def test_a_seed_makes_sampling_repeatable(checkpoint):
    arguments = ["run", checkpoint, "x", "--temperature", 3, "--max-tokens", 20]
    first, again, other = (ellm(*arguments, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


@pytest.fixture
def asking(tmp_path):
    """Makes a checkpoint whose generation_config.json asks for this."""

    def write(**generation):
        folder = write_checkpoint(tmp_path / "asking", "LlamaForCausalLM")
        (folder / "generation_config.json").write_text(json.dumps(generation))
        return folder

    return write


@pytest.mark.parametrize(
    ("generation", "options", "note"),
    [
        (
            {"do_sample": True, "top_k": 20, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 2},
            (),
            "temperature 0.6, top-p 0.95, top-k 20, max-tokens 2",
        ),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, ("--temperature", "0"), None),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, ("--top-p", "0.5"), "temperature 0.6"),
        ({"temperature": 0.6}, (), "without temperature 0.6, as do_sample is not true"),
        ({"repetition_penalty": 1.05}, (), "repeat-penalty 1.05"),
        ({"num_beams": 4, "typical_p": 0.9}, (), "ellm does not do num_beams 4, typical_p 0.9"),
        ({"do_sample": False}, (), None),
        ({}, ("--temperature", "0.5", "--top-k", "3"), None),
    ],
)
def test_how_the_model_asks_to_be_sampled_is_done_and_said(asking, generation, options, note):
    options = ("--raw", "--threads", 1, *([] if "max_new_tokens" in generation else ["--max-tokens", 2]), *options)
    result = ellm("run", asking(**generation), "the", *options)
    assert result.returncode == 0
    assert result.stderr == (f"sampling: {note} (generation_config.json)\n" if note else "")


def test_an_option_that_changes_nothing_is_said(checkpoint):
    result = ellm("run", checkpoint, "the", "--raw", "--threads", 1, "--max-tokens", 1, "--top-p", 0.5, "--top-k", 3)
    assert result.stderr == "sampling: at temperature 0, top-p 0.5, top-k 3 changes nothing\n"


def test_options_reach_the_chat_template(tmp_path):
    """The answer is what the template makes of the variables: its control token ends the prompt, or does not."""
    folder = write_checkpoint(tmp_path / "switch", "LlamaForCausalLM")
    (folder / "chat_template.jinja").write_text(
        "{% if enable_thinking %}{{ raise_exception('on') }}{% endif %}"
        "{% if enable_thinking is defined %}{{ raise_exception('off') }}{% endif %}"
        "{% if effort is defined %}{{ raise_exception(effort | tojson) }}{% endif %}the"
    )

    def said(*options):
        return refused(ellm("run", folder, "hi", "--max-tokens", 1, "--threads", 1, *options)).split("messages: ")[-1]

    assert said("--think") == "on" and said("--no-think") == "off"
    assert said("--template-arg", "enable_thinking=false") == said("--template-arg", "enable_thinking=False") == "off"
    assert said("--template-arg", "effort=[1, null]") == "[1, null]"
    assert said("--template-arg", "effort=high") == said("--template-arg", 'effort="high"') == '"high"'
    assert "does not read 'efort'; it reads effort, enable_thinking" in said("--template-arg", "efort=1")
    assert said("--template-arg", "effort") == "ellm: --template-arg must be KEY=VALUE, not 'effort'"
    assert said("--no-think", "--raw") == "ellm: --think needs the chat template, which --raw leaves out"
    assert said("--template-arg", "a=1", "--raw").startswith("ellm: --template-arg needs the chat template")


def test_a_template_without_a_switch_for_thinking(checkpoint):
    for option in ("--think", "--no-think"):
        line = refused(ellm("run", checkpoint, "hi", option, "--threads", 1))
        assert "chat_template has no switch for thinking (enable_thinking, thinking); it reads no others" in line


def test_control_tokens_in_a_question_are_text(checkpoint):
    """--stats counts the tokens of the prompt."""
    counts = [
        int(re.search(r"prefill +(\d+) tokens", ellm("run", checkpoint, question, *options).stderr)[1])
        for question, *options in (("a", *STATS), ("a<|im_end|>", *STATS), ("a<|im_end|>", "--special", *STATS))
    ]
    assert counts == [counts[0], counts[0] + len("<|im_end|>"), counts[0] + 1]


def test_a_hostile_template_is_ended(tmp_path):
    folder = write_checkpoint(tmp_path / "hostile", "LlamaForCausalLM")
    loop = "{% for i in range(99999) %}"
    (folder / "chat_template.jinja").write_text(loop * 2 + "{% endfor %}" * 2)
    assert "chat_template takes more than 1 s" in refused(ellm("run", folder, "hi", "--threads", 1))


def test_forced_isa_is_used_and_said(checkpoint):
    result = ellm("run", checkpoint, "x", "--max-tokens", 2, "--stats", ELLM_ISA="portable")
    assert "isa      portable (ELLM_ISA)" in result.stderr


@pytest.mark.parametrize("activations", ["bf16", "int16", "int8"])
def test_what_activations_are_rounded_to_is_said(activations):
    """Smollm2's weights are whole numbers times scales."""
    result = ellm("run", "smollm2", "x", "--max-tokens", 2, "--stats", "--activations", activations)
    assert re.search(rf"^rounded  activations, to {activations} at q4_1, q8_0 weights$", result.stderr, re.MULTILINE)


def test_activations_that_ellm_does_not_have(checkpoint):
    message = "activations 'int4' are unknown: choose one of bf16, int16, int8"
    assert message in refused(ellm("run", checkpoint, "x", "--activations", "int4"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "/nowhere/model", "hi"], "/nowhere/model"),
        (["run", "What is this?"], "a lone argument is the MODEL"),
        (["run", "/nowhere/large/model", "-"], "stdin is empty"),  # said before the model is loaded
        (["run", "What is", "this?"], "a lone argument is the MODEL"),
        (["run", "smollm2", ""], "PROMPT is empty"),
        (["run", "", "hi"], "the model's name is ''"),
        (["run", "smollm2", "hi", "--max-tokens", "0"], "max_tokens.*not 0"),
        (["run", "smollm2", "hi", "--stop", ""], "stop.*not empty"),
        (["run", "smollm2", "hi", "--isa", ""], "ISA ''"),
        (["run", "smollm2", "hi", "--speculate", "mtp"], "speculate: mtp: the model has no prediction heads"),
        (["run", "smollm2", "hi", "--speculate", "x"], "speculate must be auto, lookup, mtp or off, not 'x'"),
        (["run", "smollm2"], "stdin is empty"),
        (["run", "smollm2", "hi", "--raw", "--system", "x"], "--system"),
        (["run", "smollm2", "hi", "--temperature", "-1"], "temperature must be a number of at least 0, not -1.0"),
        (["run", "smollm2", "hi", "--temperature", "warm"], "--temperature"),
        (["run", "smollm2", "hi", "--top-p", "2"], "top_p"),
        (["run", "smollm2", "hi", "--context", "9000"], "9000.*8192"),
        (["run", "smollm2", "hi", "--context", "8"], r"the prompt has \d+ tokens, the context has 8"),
        (["run", "smollm2", "hi", "--threads", "1000"], "threads.*1000"),
        (["run", "smollm2", "hi", "--pin", "0-x"], "pin: '0-x' is neither"),
        (["bench", "smollm2", "--pin", "4095"], "pin: 4095: core 4095 cannot be used"),
        (["profile", "smollm2", "--pin", "0,0"], "pin: 0,0: core 0 is named twice"),
        (["run", "smollm2", "hi", "--isa", "mmx"], "mmx"),
        (["run", "smollm2", "hi", "--colour"], "--colour"),
        (["walk"], "walk"),
        (["bench", "smollm2", "-p", "12,x"], "'x'"),
        (["bench", "smollm2", "-p", "9000"], "9000.*8192"),
        (["bench", "smollm2", "-n", "0"], "--generate"),
        (["inspect", "/nowhere"], "/nowhere"),
        (["inspect", "smollm2", "--context", "9000"], "9000.*8192"),
        (["doctor", "--isa", "mmx"], "mmx"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ellm", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as caught:
        main()
    result = subprocess.CompletedProcess(arguments, caught.value.code, *capsys.readouterr())
    assert re.search(words, refused(result))


def test_bad_input_ends_the_process_with_code_2():
    assert "/nowhere" in refused(ellm("run", "/nowhere", "hi"))


def test_amx_where_there_is_none_is_refused_with_the_reason():
    obstacle = isa.available()["amx"]
    if obstacle is None:
        assert "isa      amx" in ellm("run", "smollm2", "hi", "--isa", "amx", "--max-tokens", 1, "--stats").stderr
    else:
        assert obstacle in refused(ellm("run", "smollm2", "hi", "--isa", "amx"))


def test_broken_checkpoints_are_one_line(tmp_path):
    folder = write_checkpoint(tmp_path / "unknown", "LlamaForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    assert "MambaForCausalLM" in refused(ellm("run", folder, "hi"))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    assert re.search(r"\[331, 88\].*\[331, 96\]", refused(ellm("run", folder, "hi")))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in refused(ellm("run", folder, "hi"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(ellm("run", folder, "hi"))


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path):
    folder = write_checkpoint(tmp_path / "huge", "LlamaForCausalLM", layers=1)
    config = json.loads((folder / "config.json").read_text())
    sizes = {331: 1 << 24, 88: 1 << 16}
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": sizes[331], "hidden_size": sizes[88]}))
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, end = json.loads(data[8 : 8 + size]), 0
    for name, tensor in header.items():
        if name != "__metadata__":
            tensor["shape"] = [sizes.get(size, size) for size in tensor["shape"]]
            elements = tensor["shape"][0] * (tensor["shape"][1] if len(tensor["shape"]) > 1 else 1)
            tensor["data_offsets"] = [end, end := end + 2 * elements]
    text = json.dumps(header).encode()
    with weights.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # 4 TB, sparse
    assert re.search(
        r"needs [\d.]+ GB of memory in bf1[26].*, [\d.]+ GB are available", refused(ellm("run", folder, "hi"))
    )


def test_an_internal_error_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import ellm.checkpoint.aliases\n\ndef resolve(name):\n    raise RuntimeError('boom\\nand more')\n\n"
        "ellm.checkpoint.aliases.resolve = resolve\n"
    )
    result = ellm("run", "smollm2", "hi", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "internal error: RuntimeError: boom and more" in refused(result, 1)
    assert "Traceback" in ellm("run", "smollm2", "hi", PYTHONPATH=f"{tmp_path}:{ROOT}", ELLM_TRACEBACK="1").stderr


@pytest.mark.parametrize("arguments", [["run", "TINY", "hi", "--max-tokens", "3"], ["inspect", "TINY"], ["--help"]])
def test_a_full_disk_is_one_line(checkpoint, arguments):
    command = [*ELLM, *(str(checkpoint) if word == "TINY" else word for word in arguments)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120)
    assert (result.returncode, result.stderr) == (2, "ellm: the output cannot be written: No space left on device\n")


def test_a_full_disk_under_stderr_keeps_the_exit_code(checkpoint):
    with open("/dev/full", "w") as full:
        command = [*ELLM, "run", "/nowhere", "hi"]
        assert subprocess.run(command, stderr=full, cwd=ROOT, timeout=120).returncode == 2


def test_closed_streams_are_empty_or_ignored(checkpoint):
    def run(redirections, *arguments):
        command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *ELLM, "run", str(checkpoint), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

    assert "stdin is empty" in refused(run("<&-"))
    assert "stdin is empty" in refused(run("<&-", "-"))
    for redirections in (">&-", "2>&-", "<&- >&- 2>&-"):
        result = run(redirections, "hi", "--max-tokens", "3")
        assert (result.returncode, result.stderr) == (0, "")


def test_what_files_bring_into_a_message_does_nothing_to_a_terminal(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "\x1b[2J\x07" + "x" * 5000}))
    message = refused(ellm("run", folder, "hi"))
    assert message.isprintable() and r"\x1b[2J" in message and len(message) < 1100


def test_a_note_is_shown_as_it_is(capsys):
    note("/:fire:/[bold]x\n  aligned   \x1b[31mred")
    assert capsys.readouterr().err == "/:fire:/[bold]x\n  aligned   \\x1b[31mred\n"


def test_notes_and_bars_stay_out_of_a_stderr_that_is_no_terminal(checkpoint):
    assert ellm("run", checkpoint, "hi", "--max-tokens", 2).stderr == ""


def test_an_answer_that_would_fill_memory_is_announced(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ellm", "run", str(checkpoint), "hi", "--max-tokens", "2"])
    available = memory.available
    monkeypatch.setattr(memory, "available", lambda: min(available(), 300_000))
    monkeypatch.setattr("ellm.serving.runtime.check_room", lambda *arguments: None)
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    with pytest.raises(SystemExit):
        main()
    words = r"a full context of 1024 tokens would need 524\.3 kB for keys and values, 300\.0 kB are left"
    assert re.search(words, capsys.readouterr().err)


def test_ctrl_c_stops_one_answer_with_code_130():
    tokens = 8000
    command = [*ELLM, "run", "smollm2", "Count.", "--max-tokens", str(tokens), "--temperature", "2", "--seed", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors == b""
    assert rest.endswith(b"\n") and len(rest) < tokens  # of the whole answer, each has some bytes


@pytest.mark.parametrize("module", ["typer", "numpy"])
@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 7)])
def test_ctrl_c_during_imports_ends_the_command_quietly(tmp_path, checkpoint, module, ignored, code):
    """A module that sends the signal when it is imported stands in for a finger; who ignores it is not ended."""
    (tmp_path / f"{module}.py").write_text("import os\nos.kill(os.getpid(), 2)\nos._exit(7)\n")
    result = subprocess.run(
        [sys.executable, ROOT / "bin" / "ellm", "run", checkpoint, "hi"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_a_reader_that_leaves_early_gets_no_traceback():
    command = [*ELLM, "run", "smollm2", "Count.", "--max-tokens", "200", "--temperature", "2", "--seed", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.read(5)
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read() == b""
    process.wait(60)


def test_a_pipe_that_nobody_reads_gets_no_traceback():
    for arguments in (["--version"], ["inspect", "smollm2"]):
        reader, writer = os.pipe()
        os.close(reader)
        result = subprocess.run([*ELLM, *arguments], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
        os.close(writer)
        assert (result.returncode, result.stderr) == (1, b"")


def test_bench_measures_beside_the_limits(checkpoint):
    result = ellm(
        "bench", checkpoint, "-p", "96,200", "-n", 8, "-d", 16, "-r", 2, "--chunk", 64, "--json", "--dtype", "bf16-raw"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [entry["name"] for entry in report["results"]] == ["prefill 96", "prefill 200", "decode 8 at 16"]
    assert [entry["pairs"] for entry in report["results"][:2]] == [2 * 2, 2 * 4]
    assert set(report) == {"model", "isa", "threads", "weight_bytes", "arena_bytes", "results"}
    assert report["weight_bytes"].keys() == {"bf16", "f32"} and report["weight_bytes"]["bf16"] > 100_000
    *prefills, decode = report["results"]
    assert all(entry["tokens_per_second"] > 0 and 0 < entry["share"] < 1 for entry in prefills)
    assert decode["tokens_per_second"] > 0 and decode["share"] > 0  # the weights fit in a cache, the limit is memory's
    assert 0.5 < decode["bytes_per_token"] / report["weight_bytes"]["bf16"] < 1  # it is packed with padding
    text = ellm("bench", checkpoint, "-p", "96", "-n", 8, "-r", 1).stdout
    assert re.search(r"prefill 96 +[\d.]+ tok/s .*% of the limit", text) and re.search(
        r"decode 8 at 128 .*GB/token", text
    )


def test_bench_counts_the_bytes_of_the_experts_that_a_token_is_routed_to(tmp_path):
    sizes = []
    for experts in (4, 24):
        folder = write_checkpoint(tmp_path / str(experts), "Qwen3MoeForCausalLM", num_experts=experts)
        report = json.loads(ellm("bench", folder, "-p", "32", "-n", 4, "-d", 16, "-r", 1, "--json").stdout)
        sizes.append((report["results"][1]["bytes_per_token"], report["weight_bytes"]["bf16"]))
    router = 2 * (24 - 4) * 88 * 2  # two layers, bf16
    assert sizes[1][0] - sizes[0][0] == router and sizes[1][1] > 2 * sizes[0][1]


def test_what_a_model_leaves_out_is_said_in_one_line(tmp_path):
    folder = write_checkpoint(tmp_path / "mtp", "DeepseekV3ForCausalLM", num_nextn_predict_layers=1)
    result = ellm("run", folder, "hi", "--max-tokens", 2, "--speculate", "lookup")
    assert result.returncode == 0
    assert re.fullmatch(r"not used: \d+ tensors of the checkpoint: model\.layers\.2\.\* \(\d+\)\n", result.stderr)
    result = ellm("run", folder, "hi", "--max-tokens", 2)
    assert (result.returncode, result.stderr) == (0, "")
    result = ellm("run", folder, "hi", "--max-tokens", 2, "--speculate", "mtp", "--stats")
    assert "\ndrafts   prediction heads, " in result.stderr and "\nprediction heads: " in result.stderr


def test_memory_of_prediction_heads_is_counted(tmp_path):
    folder = write_checkpoint(tmp_path / "mtp", "DeepseekV3ForCausalLM", num_nextn_predict_layers=1)
    price = r"\nprediction heads: .* more of weights, .* of arena and scratch, and .* per token; --speculate "
    for command in (("inspect", folder), ("plan", folder, "--machine", "xeon-6980p")):
        shown = {speculate: ellm(*command, "--speculate", speculate).stdout for speculate in ("auto", "mtp", "lookup")}
        assert shown["auto"] == shown["mtp"] != shown["lookup"]
        assert re.search(price, shown["auto"]) and "prediction heads" not in shown["lookup"]
    assert "caches       3 of latents" in ellm("inspect", folder).stdout
    assert "caches       2 of latents" in ellm("inspect", folder, "--speculate", "off").stdout
    result = ellm("inspect", "smollm2", "--speculate", "mtp")
    assert result.returncode == 2 and "smollm2: speculate: mtp: the model has no prediction heads" in result.stderr


@pytest.mark.parametrize("name", ["run", "batch", "serve", "bench", "profile"])
def test_every_option_that_llm_knows_reaches_it(name, monkeypatch):
    command, given = getattr(cli, name), {"model"}
    monkeypatch.setattr(f"ellm.cli.{name}.{name}", lambda *rest, options, **others: given.update(options))
    CliRunner().invoke(cli.app, [name, *(["in", "out"] if name == "batch" else ["model"])])
    if name == "bench":
        given.add("chunk")  # it is an argument of its own
    known = inspect.signature(LLM).parameters.keys() & inspect.signature(command).parameters.keys()
    assert "isa" in given and known <= given


def test_doctor_names_every_isa_and_the_limits():
    result = ellm("doctor")
    assert result.returncode == 0
    for word in ("amx", "avx512f", "avx2", "portable", "mxfp4", "affinity", "quota", "NUMA", "others", "huge pages"):
        assert word in result.stdout
    assert "Qwen3-8B" in result.stdout
    assert re.search(r"measured +[\d.]+ GB/s memory read, [\d.]+ TFLOP/s", result.stdout)
    assert f"\n  fetching   what is read next, into {isa.fetches(isa.choose().isa)}\n" in result.stdout


def test_doctor_warns_where_reserved_memory_counts(tmp_path):
    setting = tmp_path / "proc/sys/vm/overcommit_memory"
    assert overcommit_lines(tmp_path) == []
    setting.parent.mkdir(parents=True)
    for value, lines in (("0", 0), ("1", 0), ("2", 1)):
        setting.write_text(f"{value}\n")
        found = overcommit_lines(tmp_path)
        assert len(found) == lines and all("vm.overcommit_memory=2" in line for line in found)


def test_help_and_version():
    assert "run" in ellm("--help").stdout
    alone = ellm()
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, ellm("--help").stdout, "")
    assert "--repeat-penalty" in ellm("run", "--help").stdout
    assert re.fullmatch(r"ellm \d+\.\d+\.\d+\n", ellm("--version").stdout)
