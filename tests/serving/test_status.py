"""What a running model tells of itself: which experts woke, and how long its workers have worked."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.profiling.recorder import _expert_begins
from ellm.serving.status import Status, expert_layers


@dataclass
class Counts:
    running: int = 2
    step_seconds: float = 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "moe", "Qwen3MoeForCausalLM", layers=3)


@pytest.fixture(scope="module")
def llm(checkpoint):
    with LLM(checkpoint, threads=2, pin="none") as opened:
        yield opened


@pytest.mark.parametrize(("prompt", "tokens"), [([5], 1), ([5, 6, 7], 4), (list(range(3, 60)), 1)])
def test_the_experts_of_the_last_step_are_those_that_rows_went_to(llm, prompt, tokens):
    executable, status = llm.runtime.executable, Status(llm.runtime)
    begins = executable.watch(_expert_begins(llm.runtime.program))
    with executable.trace():
        llm.generate(prompt, SamplingParams(max_tokens=tokens, seed=tokens))
    told = status.now(Counts())["experts"]
    last = [begin[executable.number % 2] for begin in begins]
    assert [layer["woken"] for layer in told] == [np.flatnonzero(np.diff(begin)).tolist() for begin in last]
    assert [layer["experts"] for layer in told] == [len(begin) - 1 for begin in last]
    assert len({layer["name"] for layer in told}) == 3


def test_experts_and_their_rows_are_counted(llm):
    top_k = max(operator.top_k for operator in llm.runtime.program.operators)
    one, each = llm.statistics(), 3 * top_k
    llm.generate([7], SamplingParams(max_tokens=4, ignore_eos=True))
    two = llm.statistics()
    assert two.rows - one.rows == 4
    assert two.expert_rows - one.expert_rows == two.experts_woken - one.experts_woken == 4 * each, "a row wakes its own"
    llm.generate(list(range(60, 10, -1)), SamplingParams(max_tokens=1))
    three = llm.statistics()
    woken = sum(len(layer["woken"]) for layer in Status(llm.runtime).now(Counts())["experts"])
    assert three.rows - two.rows == 50 and three.expert_rows - two.expert_rows == 50 * each
    assert three.experts_woken - two.experts_woken == woken < 50 * each


def test_before_the_first_step_none_has_woken(checkpoint):
    with LLM(checkpoint, threads=1, pin="none") as fresh:
        assert [layer["woken"] for layer in Status(fresh.runtime).now(Counts())["experts"]] == [[], [], []]


def test_it_is_json_with_the_counts_that_it_is_given(llm):
    told = json.loads(json.dumps(Status(llm.runtime).now(Counts())))
    assert told["statistics"] == {"running": 2, "step_seconds": 0.5}
    assert told["context"] == llm.context and told["seconds"] > 0
    assert [one["core"] for one in told["cores"]] == [None, None]


def test_workers_that_work_take_time(llm):
    status = Status(llm.runtime)
    before = now = status.now(Counts())
    for number in range(2000):  # of which none begins as another, so that all are computed; time is told in 10 ms
        llm.generate([3 + number % 40, 3 + number // 40, *[5] * 198], SamplingParams(max_tokens=1))
        now = status.now(Counts())
        if now["cores"] != before["cores"]:
            break
    assert sum(one["seconds"] for one in now["cores"]) > sum(one["seconds"] for one in before["cores"])


def test_a_dense_model_has_no_experts(tmp_path):
    with LLM(write_checkpoint(tmp_path / "dense"), threads=1, pin="none") as dense:
        assert expert_layers(dense.runtime.program) == []
        assert Status(dense.runtime).now(Counts())["experts"] is None
