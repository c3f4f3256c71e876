"""The engine on an executable that only counts: what is run, how often, and what an interrupt or a failure leaves."""

import collections
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import ellm.serving
from ellm import InputError, SamplingParams
from ellm.scheduler import StepError
from ellm.scheduler.probe_program import ProbeGroup, probe_program
from ellm.serving.completion import Completion
from ellm.serving.engine import Engine

PROMPTS = [[5, 6, 7, 8, 9, 10], [3], [11, 12, 13]]
SERVING = str(Path(ellm.serving.__file__).parent)


class Letters:
    """A vocabulary of 100 tokens, each of which is a letter."""

    eos_ids = frozenset({99})

    def stream(self):
        return self

    def push(self, token):
        return chr(ord("a") + token % 26)

    def finish(self):
        return ""


class Counter:
    """Draws tokens that depend on all the tokens before, by a state that takes each token once."""

    def __init__(self):
        self.sums = collections.defaultdict(int)  # (range, position) -> what the positions up to it sum up to
        self.times = collections.Counter()  # (range, position) -> how often it ran
        self.before = self.after = lambda step: None

    def run(self, step):
        self.before(step)
        drawn = 0
        for row, (token, position, slot) in enumerate(zip(step.tokens, step.positions, step.slots, strict=True)):
            place = int(step.ranges[slot])
            self.times[place, int(position)] += 1
            self.sums[place, int(position)] = self.sums[place, int(position) - 1] * 31 % 1009 + int(token)
            if drawn < len(step.logit_row) and row == step.logit_row[drawn]:
                step.sampled[drawn], step.logprob[drawn] = self.sums[place, int(position)] % 97, -1.0
                drawn += 1
        step.ended = True
        self.after(step)


def completion(prompt, vocabulary=None, **params):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 5} | params)
    return Completion(np.array(prompt, np.int32), params, 64, vocabulary or Letters())


def open_engine(executable, **options):
    program = dataclasses.replace(probe_program([ProbeGroup(1)]), range_bytes=1 << 16, context=64, vocab=100)
    return Engine(executable, program, **{"chunk": 4, "slots": 2} | options)


def finish(engine, completions):
    for _ in range(200):
        if all(one.sequence.done for one in completions):
            engine.release()
            return
        engine.step()
    raise AssertionError("a completion never ends")


def results(completions):
    return [(one.output().token_ids, one.output().text, one.output().logprobs) for one in completions]


def expected(**params):
    completions = [completion(prompt, **params) for prompt in PROMPTS]
    engine = open_engine(Counter())
    engine.submit(completions)
    finish(engine, completions)
    return results(completions)


def interrupt(_step):
    raise KeyboardInterrupt


def test_a_step_that_ended_before_an_interrupt_is_counted():
    executable, completions = Counter(), [completion(prompt) for prompt in PROMPTS[:2]]
    engine = open_engine(executable)
    engine.submit(completions)
    for _ in range(3):
        executable.after = interrupt
        with pytest.raises(KeyboardInterrupt):
            engine.step()
        executable.after = lambda step: None
        engine.step()
    finish(engine, completions)
    assert set(executable.times.values()) == {1}
    assert results(completions) == expected()[:2]


def test_a_step_that_an_interrupt_kept_from_running_is_run():
    executable, completions = Counter(), [completion(prompt) for prompt in PROMPTS[:2]]
    engine = open_engine(executable)
    engine.submit(completions)
    executable.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    executable.before = lambda step: None
    finish(engine, completions)
    assert set(executable.times.values()) == {1}
    assert results(completions) == expected()[:2]


@pytest.mark.parametrize("first", range(5))
def test_an_interrupt_anywhere_changes_nothing(first):
    """Between any two lines of the serving code, in any step: all run once, and all the text is there."""
    wanted, at, fired = expected(stop="q"), first, True
    while fired:
        executable, completions = Counter(), [completion(prompt, stop="q") for prompt in PROMPTS]
        engine = open_engine(executable)
        engine.submit(completions)
        lines = 0

        def trace(frame, event, argument, at=at):
            nonlocal lines
            if not frame.f_code.co_filename.startswith(SERVING):
                return None
            lines += event == "line"
            if event == "line" and lines == at + 1:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            finish(engine, completions)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        fired = lines > at
        finish(engine, completions)
        assert results(completions) == wanted, f"interrupted at line {at}"
        ran = sum(executable.times.values())
        assert ran == sum(len(prompt) + len(tokens) - 1 for prompt, (tokens, *_) in zip(PROMPTS, wanted, strict=True))
        assert len(engine.free_slots) == 2 and not engine.running and not engine.waiting
        at += 5


def test_a_failed_step_fails_those_in_it_and_no_others():
    executable, completions = Counter(), [completion(prompt) for prompt in PROMPTS[:2]]
    engine = open_engine(executable, chunk=1)

    def fail(step):
        raise StepError(1, "layers.0.qkv")

    engine.submit(completions)
    executable.before = fail
    engine.step()
    executable.before = lambda step: None
    finish(engine, completions)
    failed = [one.sequence.error is not None for one in completions]
    assert sorted(failed) == [False, True]
    well = failed.index(False)
    assert results([completions[well]]) == [expected()[well]]


def test_any_policy_gives_the_same_tokens():
    def newest_alone(sequences, rows):
        return [(sequences[-1], min(sequences[-1].left, rows))]

    completions = [completion(prompt) for prompt in PROMPTS]
    engine = open_engine(Counter(), policy=newest_alone)
    engine.submit(completions)
    finish(engine, completions)
    assert results(completions) == expected()


def test_what_is_closed_ends():
    completions = [completion(prompt) for prompt in PROMPTS]
    engine = open_engine(Counter())
    engine.submit(completions)
    engine.step()
    engine.close(InputError("closed"))
    assert all(one.sequence.done for one in completions) and engine.room.ranges.held == 0
