"""What a benchmark makes of its steps, by a clock that the test moves at known shares of the limits."""

import itertools
from types import SimpleNamespace

import pytest

from ellm import LLM
from ellm.predict.roofline import Cost
from ellm.profiling.bencher import Bencher
from ellm.scheduler import Executable
from ellm.serving.runtime import Runtime

CHUNK, CONTEXT, WINDOW = 64, 256, 1.0


class Machine:
    """Runs a model's steps at a share of its limits, which move from probe to probe."""

    def __init__(self, runtime: Runtime, monkeypatch):
        self.now, self.cost = 0.0, Cost.of(runtime.program)
        self.multiplying, self.reading = 0.25, 0.5  # shares
        self.moving = itertools.cycle([1.0, 3.0, 0.5])
        self.limit = 1e7  # of the last probe
        self._run = runtime.executable.run
        self.steps: list[tuple[int, int]] = []
        monkeypatch.setattr("ellm.profiling.bencher.time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr("ellm.profiling.bencher.WINDOW", WINDOW)
        self.program = runtime.program

    def read(self) -> float:
        """Bytes a second."""
        self.limit = 1e7 * next(self.moving)
        return self.limit

    def matmul(self) -> float:
        """Operations a second."""
        self.limit = 1e8 * next(self.moving)
        return self.limit

    def run(self, step) -> None:
        """Run a step of one sequence, and let the time pass that it takes."""
        self._run(step)
        begin, rows = int(step.positions[0]), len(step.positions)
        assert step.positions.tolist() == list(range(begin, begin + rows))
        self.steps.append((begin, rows))
        if rows == 1:
            self.now += self.cost.decode_bytes(begin) / (self.limit * self.reading)
        else:
            self.now += self.cost.prefill_flops(begin, begin + rows) / (self.limit * self.multiplying)


@pytest.fixture
def chunk():
    return CHUNK


@pytest.fixture
def bencher(checkpoint, monkeypatch, chunk):
    with LLM(checkpoint, context=CONTEXT, chunk=chunk) as llm:
        machine = Machine(llm.runtime, monkeypatch)
        executable: Executable = machine
        monkeypatch.setattr(llm.runtime, "executables", [executable])
        yield Bencher(llm.runtime, machine)


def test_prefill_is_beside_the_multiplication(bencher):
    result = bencher.prefill(200, repeat=3)
    assert (result.name, result.rows, result.pairs, result.bytes_per_token) == ("prefill 200", CHUNK, 3 * 4, None)
    assert result.share == pytest.approx(0.25) and 1e8 <= result.limit < 3e8
    assert bencher.limits.steps[1:] == 3 * [(0, 64), (64, 64), (128, 64), (192, 8)]


def test_decode_is_beside_the_reading(bencher):
    result = bencher.decode(100, 40, repeat=2)
    assert (result.name, result.rows) == ("decode 40 at 100", 1)
    assert result.share == pytest.approx(0.5) and 1e7 <= result.limit < 3e7
    assert result.bytes_per_token == pytest.approx(sum(map(bencher.cost.decode_bytes, range(100, 140))) / 40)
    filled = [(0, 64), (64, 36), (100, 1)]
    assert bencher.limits.steps == filled + 2 * [(position, 1) for position in range(100, 140)]


def test_tokens_a_second_are_those_of_the_clock(bencher):
    """In windows that are no longer than they may be, without the steps before the first one."""
    machine = bencher.limits
    machine.moving = itertools.repeat(1.0)
    decode = bencher.decode(100, 40, repeat=1)
    spent = 40 * decode.bytes_per_token / (1e7 * machine.reading)
    assert decode.tokens_per_second == pytest.approx(40 / spent)
    assert 2 * spent / WINDOW <= decode.pairs <= 40
    prefill = bencher.prefill(128, repeat=1)
    spent = bencher.cost.prefill_flops(0, 128) + bencher.cost.logit_flops  # one for each step
    assert prefill.tokens_per_second == pytest.approx(128 / spent * 1e8 * machine.multiplying)
