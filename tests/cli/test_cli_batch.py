"""`ellm batch`: killed at any moment, on a full disk, with bad lines; the output is that of one undisturbed run."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
from batch_lines import DOCUMENT, write_batch
from scripted import write_scripted
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.batch.ledger import SUFFIX
from ellm.server.errors import ApiError
from ellm.system import limited_process

ELLM = [sys.executable, "-m", "ellm.cli.main", "batch"]
OPTIONS = ("--threads", "1", "--pin", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    """An input of 200 lines, what an undisturbed run makes of it, and its document."""
    folder = tmp_path_factory.mktemp("batch")
    write_batch(folder, 200, 160)
    result = started(checkpoint, folder, folder / "whole.jsonl")
    assert result.wait() == 3, result.stderr.read()
    return folder


def started(model, folder, out, **options):
    command = [*ELLM, str(model), str(folder / "in.jsonl"), str(out), *OPTIONS]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def sizes(out):
    """Of the output and of what is beside it."""
    return [file.stat().st_size for file in (out, out.with_name(out.name + SUFFIX)) if file.exists()]


def test_killed_again_and_again_it_ends_with_the_same_bytes(checkpoint, folder, tmp_path):
    out, kills, chosen = tmp_path / "out.jsonl", 0, random.Random(1)
    while True:
        before = sizes(out)
        process = started(checkpoint, folder, out)
        while process.poll() is None and sizes(out) == before:
            time.sleep(0.002)
        time.sleep(chosen.uniform(0, 0.1))
        if kills == 6 or process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.wait() == 3, process.stderr.read()
    assert kills > 1
    assert out.read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_on_a_full_disk_it_stops_with_one_line_and_goes_on_when_there_is_room(checkpoint, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    whole = (folder / "whole.jsonl").read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 3, resource.RLIM_INFINITY))

    process = started(checkpoint, folder, out, preexec_fn=limit)
    told = process.communicate()[1]
    assert process.returncode == 2, told
    assert f"ellm: {out}: cannot be written: File too large" in told
    assert "lines are answered; the same command goes on with the others" in told
    assert whole.startswith(out.read_bytes())
    assert started(checkpoint, folder, out).wait() == 3
    assert out.read_bytes() == whole


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_keeps_what_is_done(checkpoint, folder, tmp_path, name):
    out = tmp_path / "out.jsonl"
    process = started(checkpoint, folder, out)
    while process.poll() is None and sum(sizes(out)) < 2000:  # more than what says which batch it is
        time.sleep(0.002)
    process.send_signal(getattr(signal, name))
    told = process.communicate()[1]
    assert process.returncode == 130 and "goes on with the others" in told, told
    assert started(checkpoint, folder, out).wait() == 3
    assert out.read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_answers_are_those_of_the_python_api(checkpoint, folder):
    answers = [json.loads(line) for line in (folder / "whole.jsonl").read_text().split("\n")[:-1]]
    numbered = [(n, line) for n, line in enumerate((folder / "in.jsonl").read_text().split("\n"), 1) if line]
    assert len(answers) == len(numbered) == 200
    with LLM(checkpoint, threads=1, pin="none") as llm:
        for (number, line), answer in list(zip(numbered, answers, strict=True))[:40]:
            response = answer["response"]
            assert answer["id"].endswith(f"_{number}") and answer["error"] is None
            if response["status_code"] != 200:
                message = response["body"]["error"]["message"]
                assert "torn" in line or re.match(r"temperature: .* greater than or equal to 0, not -\d", message)
                continue
            asked = json.loads(line)
            body = asked.get("body", asked)
            params = SamplingParams(
                temperature=body.get("temperature", 1.0 if "body" in asked else 0.0),
                max_tokens=body["max_tokens"],
                seed=body.get("seed", 16 * number),
            )
            assert answer["custom_id"] == asked.get("custom_id", f"line-{number}")
            choice, usage = response["body"]["choices"][0], response["body"]["usage"]
            if asked.get("url") == "/v1/completions":
                output, text = llm.generate(body["prompt"], params)[0], choice["text"]
            else:
                document = f"{DOCUMENT}\n\n" if "document" in asked else ""
                question = [{"role": "user", "content": document + asked["prompt"]}] if "prompt" in asked else None
                output, text = llm.chat(question or body["messages"], params)[0], choice["message"]["content"]
            assert (text, choice["finish_reason"]) == (output.text, output.finish_reason)
            assert usage["completion_tokens"] == len(output.token_ids)
            assert usage["prompt_tokens"] == len(output.prompt_token_ids)


def test_run_again_it_has_nothing_to_do(checkpoint, folder, in_process):
    before = (folder / "whole.jsonl").read_bytes()
    code, out, told = in_process("batch", checkpoint, folder / "in.jsonl", folder / "whole.jsonl", *OPTIONS)
    assert (code, out) == (3, "")
    assert "200 of 200 lines were answered before" in told and "of them errors; the first: line" in told
    assert (folder / "whole.jsonl").read_bytes() == before


def test_a_whole_batch_without_errors_ends_with_0(checkpoint, tmp_path, in_process):
    (tmp_path / "in").write_text('{"prompt": "hi", "max_tokens": 2}\n')
    code, _, told = in_process("batch", checkpoint, tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert code == 0 and "out: 1 lines\n" in told


def test_a_prompt_beyond_the_context_is_an_error_line_with_both_numbers(checkpoint, tmp_path, in_process):
    long = {"custom_id": "long", "prompt": "a" * 100, "max_tokens": 2}
    (tmp_path / "in").write_text(json.dumps(long) + '\n{"prompt": "hi", "max_tokens": 2}\n')
    code, _, told = in_process("batch", checkpoint, tmp_path / "in", tmp_path / "out", "--context", 64, *OPTIONS)
    assert code == 3, told
    first, second = map(json.loads, (tmp_path / "out").read_text().splitlines())
    error = first["response"]["body"]["error"]
    assert (first["custom_id"], first["response"]["status_code"]) == ("long", 400)
    assert error["code"] == "context_length_exceeded" and "tokens, the context has 64" in error["message"]
    assert second["response"]["status_code"] == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text('{"prompt": "other"}\n'), "input 2 lines, SHA-256 [0-9a-f]+, not 1 lines"),
        (lambda path: ["--kv", "int8"], "kv None, not int8"),
        (lambda path: ["--raw"], "raw False, not True"),
        (lambda path: ["--isa", "portable"], "isa .*, not portable"),
    ],
)
def test_other_input_or_settings_are_refused_with_both_values(checkpoint, tmp_path, in_process, change, message):
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_text('{"prompt": "hi", "max_tokens": 9}\n{"prompt": "ho"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ellm.batch.run.Batch.run", interrupt)
        assert in_process("batch", checkpoint, path, out, "--isa", "avx2", *OPTIONS)[0] == 130
    options = change(path)
    options = options if isinstance(options, list) else []
    isa = [] if "--isa" in options else ["--isa", "avx2"]
    code, _, told = in_process("batch", checkpoint, path, out, *isa, *options, *OPTIONS)
    assert code == 2
    assert len(told.splitlines()) == 1
    assert re.search(f"was begun with {message}", told), told


async def interrupt(batch):
    """Ctrl-C when one line is answered."""
    for number, _ in batch._lines:
        batch._ledger.expect(number)
    batch._ledger.record({number: batch._answers.error(number, None, ApiError(400, "no"))})
    raise KeyboardInterrupt


def test_another_model_of_the_same_name_is_refused(tmp_path, in_process):
    path, out, model = tmp_path / "in", tmp_path / "out", tmp_path / "model"
    path.write_text('{"prompt": "hi"}\n{"prompt": "ho"}')
    write_checkpoint(model, "LlamaForCausalLM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ellm.batch.run.Batch.run", interrupt)
        assert in_process("batch", model, path, out, *OPTIONS)[0] == 130
    write_checkpoint(model, "LlamaForCausalLM", seed=1)
    code, _, told = in_process("batch", model, path, out, *OPTIONS)
    assert code == 2 and f"was begun with model {model}, digest " in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in"], "batch takes [MODEL] IN OUT, not 1 arguments"),
        (["a", "b", "c", "d"], "batch takes [MODEL] IN OUT, not 4 arguments"),
        (["none", "out"], "none: there is no such file"),
        (["empty", "out"], "empty: has no requests"),
        (["in", "in"], "in: is the input too"),
        (["in", "folder"], "folder: is not a file"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, in_process, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text('{"prompt": "hi"}')
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "folder").mkdir()
    code, out, told = in_process("batch", *arguments)
    assert (code, out) == (2, "") and told.splitlines()[-1].startswith(f"ellm: {message}")


def test_a_template_that_the_machine_held_up_is_asked_again(checkpoint, folder, tmp_path, in_process, monkeypatch):
    exchange, asked = limited_process._exchange, set()

    def held_up(child, line):
        first = b"say" in line and line not in asked
        asked.add(line)
        if first:
            raise limited_process.Ended("did not answer within 15 s")
        return exchange(child, line)

    monkeypatch.setattr(limited_process, "_exchange", held_up)
    assert in_process("batch", checkpoint, folder / "in.jsonl", tmp_path / "out", *OPTIONS)[0] == 3
    assert (tmp_path / "out").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert len(asked) > 20


def test_what_the_server_answers_a_batch_does(checkpoint, tmp_path, in_process):
    chat = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3,
        "reasoning_effort": "medium",
        "user": "me",
    }
    two = {"prompt": ["hi", [5, 6]], "max_tokens": 3}
    bodies = [
        ("/v1/chat/completions", chat),
        ("/v1/completions", two),
        ("/v1/chat/completions", chat | {"messages": 1}),
    ]
    lines = [json.dumps({"custom_id": str(n), "url": url, "body": body}) for n, (url, body) in enumerate(bodies)]
    (tmp_path / "in").write_text("\n".join(lines))
    assert in_process("batch", checkpoint, tmp_path / "in", tmp_path / "out", *OPTIONS)[0] in (0, 3)
    found = [json.loads(line)["response"] for line in (tmp_path / "out").read_text().splitlines()]
    assert [choice["index"] for choice in found[1]["body"]["choices"]] == [0, 1]
    assert found[0]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert (found[0]["body"]["created"], found[1]["body"]["created"]) == (0, 0)
    assert found[2]["body"]["error"]["param"] == "messages"


def test_a_line_depends_on_itself_alone(tmp_path, in_process):
    """Not on the tokens that were drawn for another line, which wrote what it says was written."""
    template = "{% for m in messages %}{{ m.content }}{{ '\n' if m.role == 'user' else '<|im_end|>' }}{% endfor %}"
    script = ["\u010a", "t", "h", "e", "<|im_end|>"]
    model = write_scripted(tmp_path / "model", script, template=template, eos="<|im_end|>")
    asked = [{"role": "user", "content": "What is there?"}]
    more = [*asked, {"role": "assistant", "content": "the"}, *asked]
    bodies = [asked, *[more] * 120]  # more than are read before the first is answered
    lines = [json.dumps({"url": "/v1/chat/completions", "body": {"messages": one}}) for one in bodies]
    (tmp_path / "in").write_text("\n".join(lines))
    assert in_process("batch", model, tmp_path / "in", tmp_path / "out", *OPTIONS)[0] == 0
    found = [json.loads(line)["response"]["body"] for line in (tmp_path / "out").read_text().splitlines()]
    assert {one["choices"][0]["message"]["content"] for one in found} == {"the"}
    with LLM(model, threads=1, pin="none") as llm:
        assert {one["usage"]["prompt_tokens"] for one in found[1:]} == {len(llm.tokenizer.chat(more))}


def test_without_a_model_the_first_line_names_it(checkpoint, tmp_path, in_process):
    body = {"model": str(checkpoint), "prompt": "hi", "max_tokens": 2}
    (tmp_path / "in").write_text(json.dumps({"url": "/v1/completions", "body": body}))
    code, _, told = in_process("batch", tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert code == 0 and f"no model named: using {checkpoint}" in told
