"""`ellm inspect`: from config.json alone, beside the weights, and by hub name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hub_stand_in import HubStandIn
from tiny import write_checkpoint
from tiny_gguf import write_gguf, write_tiny

from ellm import LLM, dsl, models
from ellm.cli.doctor import MODELS
from ellm.cli.main import main
from ellm.cli.skipped import skipped
from ellm.inspection.steps import Step
from ellm.predict.roofline import Cost

CONFIGS = Path(__file__).parents[1] / "configs"
ROOT = Path(__file__).parents[2]
NOT_LOOKED_AT = "The weights were not looked at"


@pytest.fixture
def inspect(in_process):
    """Runs `ellm inspect` in this process and returns what it prints on stdout."""

    def run(*arguments):
        code, out, err = in_process("inspect", *arguments)
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with nothing but a config.json."""

    def make(name, **changes):
        config = json.loads((CONFIGS / f"{name}.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def test_activations(inspect, tmp_path):
    path = write_tiny(tmp_path, "Qwen3ForCausalLM", GGMLQuantizationType.Q8_0)[2]
    for rounded in ("bf16", "int16", "int8"):
        printed = inspect(path, "--isa", "portable", "--activations", rounded)
        assert f"activations are rounded to {rounded} at q8_0 weights" in printed.splitlines()
    experts = write_checkpoint(tmp_path / "experts", "Qwen3MoeForCausalLM")
    assert "activations are rounded to bf16 at bf16 weights" in inspect(experts, "--isa", "portable").splitlines()


def read(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def compiled(config, **options):
    model = models.from_config(config)
    return dsl.compile(model.graph(), context=model.context, **options)


def test_graph_tasks_and_memory(inspect, tmp_path):
    path = write_checkpoint(tmp_path / "tiny", "LlamaForCausalLM")
    text = inspect(path, "--graph") + inspect(path)
    assert re.search(r"%\d+ = qkv\(.*model\.layers\.1\.self_attn\.q_proj", text)
    assert re.search(r"gate_up +2 +\d+ +\d+", text)
    assert re.search(r"critical path in tasks +\d+ +\d+", text)
    plan = re.search(r"sections of (\d+) bytes \(lower bound (\d+)\)", text)
    assert plan and int(plan[1]) >= int(plan[2]) > 0


def test_precisions_of_stored_weights_are_read_from_their_files(inspect, tmp_path):
    path = write_checkpoint(tmp_path / "tiny", "LlamaForCausalLM")
    text = inspect(path)
    assert re.search(r"layers\.\*\.qkv +2 +qkv +bf16 +stored as BF16", text)
    assert NOT_LOOKED_AT not in text
    text = inspect(path, "--no-weights")
    assert re.search(r"layers\.\*\.qkv +2 +qkv +bf16 +dtype bfloat16", text)
    assert NOT_LOOKED_AT in text
    for file in path.glob("model*.safetensors"):
        file.unlink()
    assert inspect(path) == text


def test_weights_that_are_stored_otherwise_say_so(inspect, tmp_path):
    text = inspect(write_checkpoint(tmp_path / "tiny", "DeepseekV3ForCausalLM", precision="fp8"))
    assert re.search(r"\bo_proj +2 +linear +fp8 +stored as F8_E4M3$", text, re.MULTILINE)
    assert re.search(
        r"\bkv_b_proj +2 +head_linear +bf16 +stored as F8_E4M3, converted when loaded$", text, re.MULTILINE
    )
    text = inspect(write_tiny(tmp_path, "Qwen2ForCausalLM", GGMLQuantizationType.Q8_0)[2])
    assert re.search(r"layers\.\*\.qkv +2 +qkv +q8_0 +stored as Q8_0$", text, re.MULTILINE)
    text = inspect("smollm2")
    assert re.search(r"layers\.\*\.qkv +30 +qkv +q4_1 +stored as Q4_1$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "experts", "linear"),
    [
        ("qwen3-moe", r"bf16 +dtype bfloat16, 4 of 20 experts", r"bf16 +dtype bfloat16"),
        ("deepseek-v3", r"fp8 +quant_method fp8, 4 of 24 experts", r"fp8 +quant_method fp8"),
        ("gpt-oss", r"mxfp4 +quant_method mxfp4, 4 of 12 experts", r"bf16 +not quantized, dtype not given"),
    ],
)
def test_every_operator_names_its_kernel_its_precision_and_the_reason(inspect, folder, name, experts, linear):
    text = inspect(folder(name), "--isa", "portable")
    assert NOT_LOOKED_AT in text
    assert re.search(rf"expert_gate_up +{experts}$", text, re.MULTILINE)
    assert re.search(rf"expert_down +{experts}$", text, re.MULTILINE)
    assert re.search(rf"\bo_proj +4 +linear +{linear}$", text, re.MULTILINE)
    assert re.search(r"^logits +1 +logits +bf16 ", text, re.MULTILINE)
    assert "OPERATORS (kernels for portable: asked for)\n" in inspect(folder(name), "--isa", "portable")


def test_a_token_touches_the_experts_that_it_is_routed_to():
    config = read("qwen3-moe")
    hidden, layers, top_k = config["hidden_size"], config["num_hidden_layers"], config["num_experts_per_tok"]
    head, heads, kv_heads = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    attention = hidden * head * (heads + 2 * kv_heads) + heads * head * hidden
    expert = 3 * hidden * config["moe_intermediate_size"]
    active = layers * (attention + config["num_experts"] * hidden + top_k * expert) + config["vocab_size"] * hidden
    cost = Cost.of(compiled(config))
    assert cost.weight_bytes == {"bf16": 2 * active}
    assert cost.row_flops + cost.logit_flops == 2 * active
    assert cost.cache_bytes(99) == layers * 100 * 2 * 2 * kv_heads * head
    assert cost.decode_bytes(99) == 2 * active + cost.cache_bytes(99)


def test_a_latent_cache_is_read_once_for_keys_and_values():
    config = read("deepseek-v3")
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    assert Cost.of(compiled(config)).cache_bytes(9) == config["num_hidden_layers"] * 10 * 2 * width


def test_a_window_bounds_what_a_token_attends_to():
    config = read("gpt-oss")
    layer = 2 * 2 * config["num_key_value_heads"] * config["head_dim"]
    assert Cost.of(compiled(config)).cache_bytes(999) == 2 * 1000 * layer + 2 * 128 * layer


@pytest.mark.parametrize(("name", "format", "bits"), [("deepseek-v3", "fp8", 8), ("gpt-oss", "mxfp4", 4.25)])
def test_quantized_experts_count_by_their_stored_bytes(name, format, bits):
    config = read(name)
    sparse = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    width = config.get("moe_intermediate_size", config["intermediate_size"])
    weights = sparse * config["num_experts_per_tok"] * 3 * config["hidden_size"] * width
    experts = [entry for entry in compiled(config).operators if entry.experts]
    assert {entry.precision for entry in experts} == {format}
    assert sum(entry.token_bytes for entry in experts) == pytest.approx(weights * bits / 8, rel=0.01)


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"])
def test_a_decode_step_runs_the_tasks_that_it_says(tmp_path, architecture):
    with LLM(write_checkpoint(tmp_path / "tiny", architecture), threads=1) as llm:
        llm.logits([1])
        ran = llm.runtime.executable.statistics()["operators"]
        program = llm.runtime.program
        tasks = np.bincount(program.groups["op"], Step(program, 1, 1).tasks)
    said = {name: int(count) for name, count in zip(program.op_names, tasks, strict=True) if count}
    del said["sample"]  # `logits` samples nothing
    assert {name: counts["tasks"] for name, counts in ran.items()} == said


def test_all_experts_are_woken_by_a_long_prefill():
    program = compiled(read("qwen3-moe"), chunk=512)
    routed = program.groups["counts"] >= 0
    one, many = Step(program, 1, 2), Step(program, 512, 2)
    assert (one.tasks[routed] > 0).sum() == 4 * 2 * 4  # layers, gate_up and down, experts
    assert (many.tasks[routed] > 0).all()
    for step in (one, many):
        walked = step.walk()
        assert 0 < walked.length < step.tasks.sum() and 0 < walked.events <= len(program.events)


def test_no_weights_of_a_hub_name_are_downloaded(tmp_path):
    served = write_checkpoint(tmp_path / "served", "Qwen3ForCausalLM")
    with HubStandIn(served, "tiny-org/tiny-model") as hub:
        ours = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"}
        clean = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HTTP", "ALL_"))}
        command = [sys.executable, "-m", "ellm.cli.main", "inspect", "tiny-org/tiny-model"]
        done = subprocess.run(command, cwd=ROOT, env=clean | ours, capture_output=True, text=True, timeout=120)
        files = {Path(request).name for request in hub.requests if "/resolve/" in request}
    assert (done.returncode, done.stderr) == (0, "") and NOT_LOOKED_AT in done.stdout
    assert files == {"config.json"}


def test_671_billion_weights_are_compiled_in_little_memory(tmp_path):
    (tmp_path / "config.json").write_text((ROOT / "bench/configs/deepseek-v3/config.json").read_text())
    with (tmp_path / "report").open("w") as report:
        process = subprocess.Popen(
            [sys.executable, "-m", "ellm.cli.main", "inspect", tmp_path], cwd=ROOT, stdout=report
        )
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0 and usage.ru_maxrss < 4e6  # kB
    text = (tmp_path / "report").read_text()
    assert re.search(r"^weights +\d+\.\d GB, packed \(fp8 \d+\.\d GB, bf1[26] \d\.\d GB, ", text, re.MULTILINE)
    assert re.search(r"^caches +62 of latents: 71\.4 kB per token, 0\.0 kB per sequence$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("Qwen3-0.6B", "qwen3-0.6b"),
        ("Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("gpt-oss-20b (mxfp4)", "gpt-oss-20b"),
        ("DeepSeek-V3 (fp8)", "deepseek-v3"),
    ],
)
def test_the_sizes_that_doctor_reckons_with_are_those_of_the_models(model, config):
    cost = Cost.of(compiled(json.loads((ROOT / f"bench/configs/{config}/config.json").read_text())))
    size, weights = MODELS[model]
    assert size == pytest.approx(cost.weight_bytes.total() / 1e9, rel=0.01)
    assert weights == pytest.approx((cost.row_flops + cost.logit_flops) / 2e9, rel=0.01)


def test_an_unknown_quantization_is_one_line(folder, monkeypatch, capsys):
    path = folder("qwen3-moe", quantization_config={"quant_method": "hqq"})
    monkeypatch.setattr(sys, "argv", ["ellm", "inspect", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == "" and printed.err.count("\n") == 1
    assert "quant_method" in printed.err and "hqq" in printed.err


def test_metadata_that_is_not_used_is_named(tmp_path, inspect):
    config, weights, plain = write_tiny(tmp_path)
    assert "metadata" not in inspect(plain)
    odd = write_gguf(tmp_path / "odd.gguf", config, weights, fields={"llama.magic": 3, "other.thing": "x"})
    assert inspect(odd).endswith("\nmetadata not used: llama.magic, other.thing\n")


def test_tensors_that_are_not_used_are_named_by_place():
    names = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(3)]
    names += ["model.layers.3.eh_proj.weight", "model.layers.3.mlp.experts.7.up_proj.weight"]
    assert skipped(names, layers=3) == [
        "not used: 5 tensors of the checkpoint: model.layers.*.self_attn.rotary_emb.inv_freq (3), model.layers.3.* (2)"
    ]
    assert skipped([], layers=3) == []


def test_fields_that_nothing_reads_are_listed(folder, inspect):
    path = folder("qwen3-moe", logit_scale=0.5, rope_scaling={"type": "linear", "factor": 2.0, "finetuned": True})
    assert "not used: 2 fields of the configuration: rope_scaling: finetuned, logit_scale" in inspect(path)


def test_a_rope_with_frequencies_for_each_context_needs_one(folder, inspect, in_process):
    path = folder("qwen3-moe", rope_scaling={"type": "dynamic", "factor": 2.0})
    code, out, err = in_process("inspect", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "config.json: rope_type 'dynamic' has other frequencies for each context" in err
    assert "OPERATORS" in inspect(path, "--context", "300")
