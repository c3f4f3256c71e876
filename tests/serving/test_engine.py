"""The engine on an executable that only sums up: what is run, how often, and what a failure leaves."""

import dataclasses

import numpy as np
import pytest
from engines import POSITIONS, STATE, Sums, completion, finish, give_program, open_engine, results, summed

from ellm import InputError
from ellm.scheduler import StepError
from ellm.serving.engine import Engine
from ellm.serving.policy import Policy, Terms

PROMPTS = [[5, 6, 7, 8, 9, 10], [3], [11, 12, 13]]


@pytest.fixture
def keeping_all(monkeypatch):
    """However short a sequence is, it stays cached."""
    monkeypatch.setattr("ellm.serving.prefix_cache.LEAST", 1)


@pytest.fixture(params=[POSITIONS, STATE], ids=lambda kind: kind.name)
def kind(request):
    return request.param


def expected(**params):
    completions = [completion(prompt, **params) for prompt in PROMPTS]
    engine = open_engine(Sums(), POSITIONS)
    engine.submit(completions)
    finish(engine, completions)
    return results(completions)


def test_text_is_read_while_the_next_step_runs_unless_it_may_end_the_answer(kind):
    going_on, stopping = completions = completion([5], max_tokens=3), completion([5], max_tokens=3, stop=["never"])
    engine = open_engine(Sums(), kind)
    engine.submit(completions)
    read = []
    for _ in range(3):
        engine.step()
        read.append([len(one.drawn(0).token_ids) for one in completions])
    assert read == [[0, 1], [1, 2], [3, 3]]
    assert going_on.ended and stopping.ended and going_on.output().token_ids == stopping.output().token_ids


def test_text_that_somebody_waits_for_is_read_before_the_next_step(kind):
    one = completion([5], max_tokens=3)
    one.sequence.terms = Terms(paced=True)
    engine = open_engine(Sums(), kind)
    engine.submit([one])
    read = []
    for _ in range(3):
        engine.step()
        read.append(len(one.drawn(0).token_ids))
    assert read == [1, 2, 3]


@pytest.mark.parametrize("fails", [True, False])
def test_nothing_comes_of_a_sequence_that_has_ended(kind, fails):
    told, one, other = [], completion([5], max_tokens=9), completion([5], max_tokens=9)
    one.notify = lambda: told.append((one.ended, len(one.drawn(0).token_ids)))
    engine = open_engine(Sums(), kind)
    engine.submit([one, other])
    engine.step()
    if fails:
        one.sequence.fail(InputError("too late"))
    one.sequence.done = True
    finish(engine, [one, other])
    assert told == ([(True, 0)] if fails else [(False, 1), (True, 1)])


def test_what_was_drawn_before_a_failed_step_is_read(kind):
    executable, one = Sums(), completion([5])
    engine = open_engine(executable, kind)
    engine.submit([one])
    engine.step()

    def fail(step, meanwhile):
        raise StepError(1, "layers.0.qkv")

    executable.run = fail
    engine.step()
    assert len(one.drawn(0).token_ids) == 1 and isinstance(one.sequence.error, StepError)


def test_a_failed_step_fails_those_in_it_and_no_others(kind):
    executable, completions = Sums(), [completion(prompt) for prompt in PROMPTS[:2]]
    engine = open_engine(executable, kind, chunk=1)

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


@pytest.mark.parametrize("where", ["read", "remember"])
def test_what_cannot_be_read_fails_alone(kind, where):
    def fail(*given):
        raise MemoryError("no more")

    completions = [completion(prompt) for prompt in PROMPTS]
    if where == "read":
        completions[1]._reader.push = fail
    else:
        completions[1].remember = fail
    engine = open_engine(Sums(), kind, slots=3)
    engine.submit(completions)
    finish(engine, completions)
    assert all(one.ended for one in completions) and engine.idle
    with pytest.raises(MemoryError, match="no more"):
        completions[1].output()
    assert results([completions[0], completions[2]]) == expected()[::2]


def test_any_policy_gives_the_same_tokens(kind):
    class NewestAlone(Policy):
        def deal(self, requests, rows):
            return [(requests[-1], min(requests[-1].left, rows))]

    completions = [completion(prompt) for prompt in PROMPTS]
    engine = open_engine(Sums(), kind, policy=NewestAlone(4, 4))
    engine.submit(completions)
    finish(engine, completions)
    assert results(completions) == expected()


def test_a_step_runs_where_the_program_is_for_so_many_rows(kind):
    """Of any number of programs, by what these say of themselves."""
    least = [1, 3, 6]
    executables = [give_program(Sums(), kind, least_rows=rows) for rows in least]
    completions = [completion(prompt) for prompt in PROMPTS]
    engine = Engine(executables, chunk=6, slots=3)
    for executable, most in zip(executables, [2, 5, 6], strict=True):

        def check(step, rows=executable.program.least_rows, most=most):
            assert all(rows <= count <= most for count in np.unique(step.slots, return_counts=True)[1])

        executable.before = check
    engine.submit(completions)
    finish(engine, completions)
    assert results(completions) == expected()
    ran = [sorted(position for _, position in executable.times) for executable in executables]
    assert ran[1:] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]


def test_what_is_closed_ends(kind):
    completions = [completion(prompt) for prompt in PROMPTS]
    engine = open_engine(Sums(), kind)
    engine.submit(completions)
    engine.step()
    engine.close(InputError("closed"))
    assert all(one.sequence.done for one in completions) and engine.room.ranges.held == 0


def test_the_tokens_are_those_of_the_sums():
    assert [tokens for tokens, *_ in expected()] == [summed(prompt, 5) for prompt in PROMPTS]


def test_a_step_that_stopped_half_way_is_undone(kind, keeping_all):
    """Its first rows are written: with a state that takes each row once they must not count."""
    executable = Sums()
    engine = open_engine(executable, kind, chunk=8)
    first = completion([5, 6, 7])
    engine.submit([first])
    finish(engine, [first])
    more = completion([5, 6, 7, *results([first])[0][0], 1, 2, 3])
    engine.submit([more])
    executable.stop_after, executable.error = 1, StepError(1, "layers.0.sum")
    finish(engine, [more])
    executable.stop_after = None
    again = completion(more.sequence.tokens[: more.sequence.prompt_length])
    engine.submit([again])
    finish(engine, [again])
    wanted = summed(again.sequence.tokens[: again.sequence.prompt_length].tolist(), 5)
    assert results([again])[0][0] == wanted
    assert more.sequence.error is executable.error


def test_what_cannot_be_cut_is_not_taken_back_to_before_a_step(keeping_all):
    """Nor if positions could be written again: another prompt may follow what the step was to compute."""
    executable = Sums()
    engine = open_engine(executable, dataclasses.replace(STATE, idempotent=True), chunk=8)
    first = completion([5, 6, 7])
    engine.submit([first])
    finish(engine, [first])
    begun = [5, 6, 7, *results([first])[0][0]]
    executable.stop_after, executable.error = 1, StepError(1, "layers.0.sum")
    failing = completion([*begun, 1, 2, 3])
    engine.submit([failing])
    finish(engine, [failing])
    assert failing.sequence.error is not None
    executable.stop_after = None
    other = completion([*begun, 9, 8])
    engine.submit([other])
    finish(engine, [other])
    assert results([other])[0][0] == summed([*begun, 9, 8], 5)


@pytest.mark.parametrize(
    "first, second, spared",
    [
        ([5, 6, 7], [5, 6, 7, 8, 9], {"positions": 0, "state": 0}),  # the answer was something else
        ([5, 6, 7], "answer", {"positions": 7, "state": 7}),
        ([5, 6, 7], [5, 6], {"positions": 0, "state": 0}),
        ([9] * 40, [9] * 40, {"positions": 32, "state": 0}),
    ],
)
def test_what_was_computed_is_reused_where_its_kind_allows_it(kind, first, second, spared, keeping_all):
    """Where an answer ends a prompt may go on; else whole tiles of positions are copied."""
    engine = open_engine(Sums(), kind)
    before = completion(first)
    engine.submit([before])
    finish(engine, [before])
    prompt = [*first, *results([before])[0][0], 4] if second == "answer" else second
    after = completion(prompt)
    engine.submit([after])
    finish(engine, [after])
    assert after.output().metrics.cached_tokens == spared[kind.name]
    assert results([after])[0][0] == summed(prompt, 5)


def test_memory_is_asked_for_positions_and_for_sequences(kind, monkeypatch):
    """Two sequences fit; the one that is sent back is computed again, with the same tokens."""
    wanted = expected()
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    engine = open_engine(Sums(), kind, chunk=16, slots=3)
    room = engine.room
    assert (room.position_bytes, room.sequence_bytes) == ((1024, 0) if kind is POSITIONS else (0, 4096))

    def used():
        cached = [one.sequence.cached for one in engine.running if one.sequence.cached]
        return sum(cached) * room.position_bytes + len(cached) * room.sequence_bytes

    limit = 14 * 1024 if kind is POSITIONS else 2 * 4096
    monkeypatch.setattr("ellm.system.memory.available", lambda: limit - used())
    completions = [completion(prompt) for prompt in PROMPTS]
    engine.submit(completions)
    most = 0
    while not all(one.sequence.done for one in completions):
        room.unchecked = 0.0
        engine.step()
        most = max(most, used())
    engine.release()
    assert results(completions) == wanted and 0 < most <= limit
    assert engine.preemptions > 0


def test_a_sequence_that_has_just_ended_gives_its_memory_to_others(monkeypatch):
    """Whoever cancels it may do so while a step is being prepared."""
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    engine = open_engine(Sums(), POSITIONS, chunk=16)
    room, admit = engine.room, engine._admit

    def left():
        return (8 - sum(one.sequence.cached for one in engine.running)) * room.position_bytes

    monkeypatch.setattr("ellm.system.memory.available", left)
    completions = [completion([3, 4, 5]), completion([6, 7, 8])]
    engine.submit(completions)

    def admit_and_cancel():
        room.unchecked, limit = 0.0, admit()
        completions[1].sequence.done = left() == 0 or completions[1].sequence.done
        return limit

    monkeypatch.setattr(engine, "_admit", admit_and_cancel)
    finish(engine, completions)
    assert results(completions[:1])[0][0] == summed([3, 4, 5], 5)
    assert len(completions[1].output().token_ids) == 2 and engine.preemptions == 0
