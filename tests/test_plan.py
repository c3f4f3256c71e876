"""`ellm plan` and machine files: published models on described machines, and what is wrong said in one line."""

import json
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ellm import machine as machines
from ellm.cli.main import app
from ellm.kernels.errors import InputError
from ellm.planning import Planner, compile_for, what_helps

TINY = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
}
SPARSE = {  # the dimensions of Qwen3-Coder-480B-A35B
    **TINY,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 6144,
    "intermediate_size": 8192,
    "moe_intermediate_size": 2560,
    "num_hidden_layers": 62,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts": 160,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
}


@pytest.fixture(scope="module")
def big():
    return compile_for(SPARSE, None, 8192)


@pytest.fixture(scope="module")
def tiny():
    return compile_for(TINY, None, 4096)


def test_a_big_model_is_planned_in_seconds(big):
    begin = time.perf_counter()
    planner = Planner(big, machines.load("xeon-6980p"))
    token, first = planner.decode(4096), planner.prefill(512)
    assert time.perf_counter() - begin < 60
    assert token.bound_ms < token.ms < 2 * token.bound_ms
    assert token.memory_gb == pytest.approx(token.bound_ms * planner.machine.read_gb_per_s / 1000, rel=0.03)
    assert 0 < token.scheduling < token.waiting < 0.6
    assert first.ms > 5 * token.ms and first.bound_ms < first.ms
    assert sum(token.path.values()) == pytest.approx(token.ms, rel=0.02)


def test_smaller_weights_more_bandwidth_and_short_contexts_are_faster(big):
    planner = Planner(big, machines.load("xeon-6980p"))
    now = planner.decode(4096).ms
    assert planner.decode(128).ms < now
    found = what_helps(planner, 4096)
    assert found["int4 weights (hypothetical)"] < found["fp8 weights"] < found["1.5 x the memory bandwidth"] < now
    assert found["no cost of scheduling"] < now


def test_the_same_seed_gives_the_same_plan(big):
    machine = machines.load("xeon-6980p")
    runs = {Planner(big, machine, seed=seed).prefill(48).ms for seed in (0, 0, 1)}
    assert len(runs) == 2


def test_a_batch_shares_the_weights(tiny):
    machine = machines.load("xeon-8480plus")
    one, eight = (Planner(tiny, machine, batch=batch, threads=4).decode(512).ms for batch in (1, 8))
    assert one < eight < 8 * one


def test_what_fits_in_the_caches_is_not_read_from_memory(tiny):
    estimate = Planner(tiny, machines.load("xeon-8480plus")).decode(128)
    assert estimate.memory_gb == 0 and estimate.cached_gb > 0


@pytest.mark.parametrize("name", machines.known())
def test_machines_that_come_with_it(name, tmp_path):
    machine = machines.load(name)
    path = tmp_path / "copy.toml"
    path.write_text(machine.as_toml("a copy"))
    assert machines.load(str(path)) == machine
    workers = machine.workers(machine.cores)
    assert len(set(workers.domain_of)) == workers.domains
    near = workers.cache_of[workers.victims[0]]
    assert list(near == near[0]) == sorted(near == near[0], reverse=True)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("near_ns = 60\n", "", "[latencies] near_ns: missing"),
        ("cores_per_socket = 128", "cores_per_socket = 0", "[cores] cores_per_socket: 0 is not between 1 and 4096"),
        ("cores_per_socket = 128", "cores_per_socket = 12.5", "[cores] cores_per_socket: 12.5 is not a whole number"),
        ("capacity_gb = 1536", 'capacity_gb = "much"', "[memory] capacity_gb: 'much' is not a number"),
        ("capacity_gb = 1536", "capacity_gb = nan", "[memory] capacity_gb: nan is not between"),
        ("read_gb_per_s_per_domain = 239", "read_gb_per_s_per_domain = 3", "read_gb_per_s_per_core: 15 is more than"),
        ("near_ns = 60", "near_ns = 60\nnear_us = 1", "[latencies] near_us: not a figure of a machine"),
        ("[caches]", "[cashes]", "[caches] l2_kib_per_core: missing"),
        ('name = "Intel', 'nam = "Intel', "name: missing"),
        ("[caches]", "[caches", "not TOML"),
    ],
)
def test_a_bad_machine_file_is_one_line(old, new, complaint, tmp_path):
    text = (machines.FOLDER / "xeon-6980p.toml").read_text()
    assert old in text
    path = tmp_path / "machine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        machines.load(str(path))
    assert str(path) in str(caught.value) and complaint in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_machine_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match="epyc-9755, xeon-6980p, xeon-8480plus"):
        machines.load(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"dtype": "int3"}, "int3"), ({"threads": 999}, "999"), ({"threads": 0}, "0"), ({"batch": 0}, "batch 0")],
)
def test_bad_options(tiny, options, complaint):
    with pytest.raises(InputError, match=complaint):
        Planner(tiny, machines.load("epyc-9755"), **options)


def plan(folder, config, *options: str):
    (folder / "config.json").write_text(json.dumps(config))
    return CliRunner().invoke(app, ["plan", str(folder), "--machine", "xeon-8480plus", *options])


def test_the_report(tmp_path):
    result = plan(tmp_path, TINY, "--context", "2000", "--threads", "8", "--dtype", "int8")
    assert result.exit_code == 0, result.output
    for text in ("8 of 56 cores", "first token of 512", "a token after 2000", "int4 (hypothetical)", "WHAT WOULD HELP"):
        assert text in result.output
    assert "in int8 (hypothetical)" in result.output


def test_a_model_that_does_not_fit(tmp_path):
    result = plan(tmp_path, SPARSE)
    assert isinstance(result.exception, InputError)
    assert "does not fit: needs 96" in str(result.exception) and "it would in fp8" in str(result.exception)


def test_a_context_that_the_model_does_not_have(tmp_path):
    result = plan(tmp_path, TINY, "--context", "9000")
    assert isinstance(result.exception, InputError) and "8192" in str(result.exception)


def test_a_saved_machine_can_be_planned_for(tiny, tmp_path):
    path = tmp_path / "here.toml"
    result = CliRunner().invoke(app, ["doctor", "--save", str(path), "--threads", "1"])
    assert result.exit_code == 0, result.output
    machine = machines.load(str(path))
    assert machine.cores == 1 and machine.matmul_rows in (1, 16)
    assert Planner(tiny, replace(machine, llc_mib_per_cache=0, l2_kib_per_core=0)).decode(128).memory_gb > 0


def test_a_description_that_cannot_be_written(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--save", str(tmp_path / "no" / "here.toml"), "--threads", "1"])
    assert isinstance(result.exception, InputError) and "cannot be written" in str(result.exception)
