"""`ellm plan` and machine files: published models on described machines, and what is wrong said in one line."""

import functools
import json
import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from fake_machine import write_machine
from typer.testing import CliRunner

from ellm.cli import doctor
from ellm.cli.main import app
from ellm.compiled import Options, Source, compile_model
from ellm.kernels import isa as isas
from ellm.machine import description
from ellm.machine.measure import Meter, latencies
from ellm.predict import routes
from ellm.predict.planner import Planner, what_helps
from ellm.scheduler import Pool, topology
from ellm.system.errors import InputError

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


def programs(config, context, workers=1):
    """The program with weights in a dtype."""

    def compiled(dtype):
        return compile_model(Source(config), Options(context=context, dtype=dtype, workers=workers)).program

    return functools.cache(compiled)


@pytest.fixture(scope="module")
def big():
    return programs(SPARSE, 8192, workers=126)


@pytest.fixture(scope="module")
def tiny():
    return programs(TINY, 4096)


def test_a_big_model(big):
    planner = Planner(big, description.load("xeon-6980p"))
    token, first = planner.decode(4096), planner.prefill(512)
    assert token.bound_ms < token.ms < 2 * token.bound_ms
    assert token.memory_gb == pytest.approx(token.bound_ms * planner.workers.read_rate / 1000, rel=0.03)
    assert 0 < token.scheduling < token.waiting < 0.6
    assert first.ms > 5 * token.ms and first.bound_ms < first.ms
    assert sum(token.path.values()) == pytest.approx(token.ms, rel=0.02)


def test_experts_are_drawn_as_unevenly_as_trained_routers_choose(big):
    """Published for Qwen3-30B-A3B and 1000 tokens: 90 % go to 65 of 128 experts, the busiest gets 4.3 % of them."""
    drawn = routes.draw(big(None), 1000, seed=0)
    rows = np.sort(np.stack(list(drawn.values())), axis=1)[:, ::-1]  # [operators, 160]
    assert np.all(rows.sum(1) == 8000)
    assert 0.4 < ((rows.cumsum(1) < 7200).sum(1) + 1).mean() / 160 < 0.6
    assert 0.025 < rows[:, 0].mean() / 8000 < 0.055


def test_one_row_goes_to_top_k_experts(big):
    assert {np.count_nonzero(rows) for rows in routes.draw(big(None), 1, seed=3).values()} == {8}


def test_fewer_threads_are_the_first_cores():
    """On a machine of three domains 43 workers lie in one: they read what that delivers."""
    workers = description.load("xeon-6980p").workers(43)
    assert set(workers.domain_of) == {0} and workers.read_rate == 239


def test_smaller_weights_more_bandwidth_and_short_contexts_are_faster(big):
    planner = Planner(big, description.load("xeon-6980p"))
    now = planner.decode(4096).ms
    assert planner.decode(128).ms < now
    found = what_helps(planner, 4096)
    assert found["q4 weights"] < found["fp8 weights"] < found["1.5 x the memory bandwidth"] < now
    assert found["no cost of scheduling"] < now


def test_the_same_seed_gives_the_same_plan(big):
    machine = description.load("xeon-6980p")
    runs = {Planner(big, machine, seed=seed).prefill(48).ms for seed in (0, 0, 1)}
    assert len(runs) == 2


def test_a_batch_shares_the_weights(tiny):
    machine = description.load("xeon-8480plus")
    one, eight = (Planner(tiny, machine, batch=batch, threads=4).decode(512).ms for batch in (1, 8))
    assert one < eight < 8 * one


def test_what_fits_in_the_caches_is_not_read_from_memory(tiny):
    estimate = Planner(tiny, description.load("xeon-8480plus")).decode(128)
    assert estimate.memory_gb == 0 and estimate.cached_gb > 0


@pytest.mark.parametrize("name", description.known())
def test_machines_that_come_with_it(name, tmp_path):
    machine = description.load(name)
    path = tmp_path / "copy.toml"
    path.write_text(machine.as_toml("a copy"))
    assert description.load(str(path)) == machine
    workers = machine.workers(machine.cores)
    assert len(set(workers.domain_of)) == workers.domains
    near = workers.domain_of[workers.crews.begin[:-1]][workers.crews.order[0]]
    assert list(near == near[0]) == sorted(near == near[0], reverse=True)


def test_some_cores_are_left_to_python(big):
    assert Planner(big, description.load("xeon-6980p")).threads == 126


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("near_ns = 60\n", "", "[latencies] near_ns: missing"),
        ("cores_per_socket = 128", "cores_per_socket = 0", "[cores] cores_per_socket: 0 is not between 1 and 512"),
        ("cores_per_socket = 128", "cores_per_socket = 12.5", "[cores] cores_per_socket: 12.5 is not a whole number"),
        ("capacity_gb = 1536", 'capacity_gb = "much"', "[memory] capacity_gb: 'much' is not a number"),
        ("capacity_gb = 1536", "capacity_gb = nan", "[memory] capacity_gb: nan is not between"),
        ("read_gb_per_s_per_domain = 239", "read_gb_per_s_per_domain = 3", "read_gb_per_s_per_core: 15 is more than"),
        ("capacity_gb = 1536", "capacity_gb = 1536000", "[memory] capacity_gb: 1536000 is not between 0.1 and 100000"),
        ("near_ns = 60", "near_ns = 60\nnear_us = 1", "[latencies] near_us: not a figure of a machine"),
        ("near_ns = 60", "near_us = 0.06", "[latencies] near_us: not a figure of a machine; is near_ns meant?"),
        ("near_ns = 60", "near_ns = 0.06", "[latencies] near_ns: 0.06 is not between 1 and 10000"),
        ("near_ns = 60", "near_ns = 160", "[latencies] near_ns: 160 is more than far_ns, 100"),
        ("[caches]", "[cashes]", "cashes: not one of the sections cores, memory, caches, compute, latencies"),
        ('name = "Intel', 'nam = "Intel', "name: missing"),
        ("[caches]", "[caches", "not TOML"),
    ],
)
def test_a_bad_machine_file_is_one_line(old, new, complaint, tmp_path):
    text = (description.FOLDER / "xeon-6980p.toml").read_text()
    assert old in text
    path = tmp_path / "machine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        description.load(str(path))
    assert str(path) in str(caught.value) and complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_no_machine(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: is not a regular file"):
        description.load(str(tmp_path))


def test_an_unknown_machine_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match="epyc-9755, xeon-6980p, xeon-8480plus"):
        description.load(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"dtype": "int3"}, "int3"), ({"threads": 999}, "999"), ({"threads": 0}, "0"), ({"batch": 0}, "batch 0")],
)
def test_bad_options(tiny, options, complaint):
    with pytest.raises(InputError, match=complaint):
        Planner(tiny, description.load("epyc-9755"), **options)


def plan(folder, config, *options: str):
    (folder / "config.json").write_text(json.dumps(config))
    return CliRunner().invoke(app, ["plan", str(folder), "--machine", "xeon-8480plus", *options])


def test_the_report(tmp_path):
    result = plan(tmp_path, TINY, "--context", "2000", "--threads", "8", "--dtype", "q8_0")
    assert result.exit_code == 0, result.output
    for text in ("8 of 56 cores", "first token of 512", "a token after 2000", "q4 ", "WHAT WOULD HELP"):
        assert text in result.output
    assert " in q8_0" in result.output


def test_a_model_that_does_not_fit(tmp_path):
    result = plan(tmp_path, SPARSE)
    assert isinstance(result.exception, InputError)
    assert "does not fit: needs 73" in str(result.exception) and "it would in fp8" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--context", "9000"], "--context 9000: this model has 1 to 8192 positions"),
        (["--context", "0"], "--context 0: this model has 1 to 8192 positions"),
        (["--prompt", "8193"], "--prompt 8193: this model has 1 to 8192 positions"),
        (["--batch", "0"], "batch 0: a step has from 1 to 512 sequences"),
        (["--batch", "513"], "batch 513: a step has from 1 to 512 sequences"),
        (["--threads", "57"], "threads: 57 asked for, but .* has 56 cores"),
    ],
)
def test_bad_options_of_the_command(options, complaint, tmp_path):
    result = plan(tmp_path, TINY, *options)
    assert isinstance(result.exception, InputError)
    assert re.search(complaint, str(result.exception)) and "STEP" not in result.output


def test_the_whole_context_of_a_model(tmp_path):
    result = plan(tmp_path, TINY | {"max_position_embeddings": 300}, "--context", "300")
    assert result.exit_code == 0, result.output
    assert "first token of 300" in result.output and "a token after 299" in result.output


def test_a_saved_machine_can_be_planned_for(tiny, tmp_path):
    path = tmp_path / "here.toml"
    result = CliRunner().invoke(app, ["doctor", "--save", str(path), "--threads", "1"])
    assert result.exit_code == 0, result.output
    machine = description.load(str(path))
    assert machine.cores == 1 and machine.matmul_rows in (1, 16)
    assert Planner(tiny, replace(machine, llc_mib_per_cache=0, l2_kib_per_core=0)).decode(128).memory_gb > 0


@pytest.mark.skipif(len(topology.allowed_cores()) < 2, reason="needs two cores")
def test_two_cores_that_seem_to_be_two_sockets_are_measured_as_such(tmp_path):
    root = write_machine(tmp_path, sockets=2, domains=1, caches=1, cores=1)
    with Pool(cores=[0, 1]) as pool, closing(Meter(pool, isas.table(isas.choose(None).isa), root)) as meter:
        sample = meter.sample()
        machine = meter.machine([sample])
    assert (machine.sockets, machine.cores_per_socket) == (2, 1)
    assert sample["read_remote"] > 0 and sample["socket"] > 0 and "near" not in sample
    path = tmp_path / "here.toml"
    path.write_text(machine.as_toml("two sockets"))
    assert description.load(str(path)).cores == 2


def test_latencies_that_no_pair_of_cores_shows():
    assert latencies({"near": 50.0}) == {"near_ns": 50, "far_ns": 50, "socket_ns": 50}
    assert latencies({"near": 0.5, "socket": 200.0}) == {"near_ns": 1, "far_ns": 1, "socket_ns": 200}
    assert latencies({"near": 90.0, "far": 80.0, "socket": 70.0}) == {"near_ns": 90, "far_ns": 90, "socket_ns": 90}


def test_a_description_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "doctor", lambda *_: pytest.fail("measured"))
    result = CliRunner().invoke(app, ["doctor", "--save", str(tmp_path / "no" / "here.toml")])
    assert isinstance(result.exception, InputError) and "cannot write" in str(result.exception)
