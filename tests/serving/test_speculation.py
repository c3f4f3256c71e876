"""Drafts change no answer: whatever is drafted, and whoever shares the step."""

import dataclasses

import pytest
from engines import POSITIONS, STATE, Sums, completion, finish, give_program, open_engine, results, summed
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm import InputError
from ellm.serving import speculation
from ellm.serving.speculation import Speculation, check, choose

PROMPTS = [[5, 6, 7, 8, 9, 10], [3], [11, 12, 13]]


class Scripted:
    """Drafts as many tokens as `rights` says, one number a draft: right ones, or the token after the right one."""

    def __init__(self, *rights):
        self.rights, self.turn = rights, 0

    def drafted(self, shares):
        if any(not share.draws or share.rows > 1 for share in shares):
            return shares
        return [
            dataclasses.replace(share, end=share.end + len(d), drafts=d) for share in shares for d in [self._of(share)]
        ]

    def _of(self, share):
        sequence, self.turn = share.sequence, self.turn + 1
        rights = self.rights[self.turn % len(self.rights)]
        known = sequence.tokens[: sequence.length].tolist()
        room = sequence.limit - 1 - sequence.length
        coming = zip(summed(known, len(rights)), rights, strict=True)
        return [token if right else (token + 1) % 97 for token, right in coming][:room]

    def measured(self, shares, seconds):
        assert seconds >= 0 and shares


RIGHT, WRONG, MIXED = Scripted([1] * 7), Scripted([0] * 3), Scripted([1, 1, 0, 1], [], [1], [0, 1])


def run(engine, **params):
    completions = [completion(prompt, **{"max_tokens": 30} | params) for prompt in PROMPTS]
    engine.submit(completions)
    finish(engine, completions)
    return completions


@settings(max_examples=100, deadline=None)
@given(
    rights=st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=5),
    chunk=st.integers(1, 40),
    params=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 40)},
        optional={"stop": st.sampled_from(["q", "ab", "zz"]), "stop_token_ids": st.just([5, 17, 40])},
    ),
)
def test_any_drafts_give_the_tokens_of_none(rights, chunk, params):
    drafts = Scripted(*rights) if chunk > 16 * len(PROMPTS) else Scripted(*[some[: chunk // 3 - 1] for some in rights])
    if chunk < 6:
        drafts = Scripted([])
    engine = open_engine(Sums(), POSITIONS, chunk=chunk, slots=3, speculation=drafts)
    plain = open_engine(Sums(), POSITIONS, chunk=chunk, slots=3)
    ours, theirs = run(engine, **params), run(plain, **params)
    assert results(ours) == results(theirs)
    assert [one.finish_reason for one in ours] == [one.finish_reason for one in theirs]


def test_right_drafts_save_steps_and_are_counted():
    engine = open_engine(Sums(), POSITIONS, chunk=64, slots=3, speculation=RIGHT)
    for one in run(engine, max_tokens=24):
        metrics = one.output().metrics
        assert (metrics.steps, metrics.accepted_tokens) == (4, 20), "one by the prompt, then 8, 8 and 7"
        assert metrics.drafted_tokens == 7 + 7 + 6
    for one in run(open_engine(Sums(), POSITIONS, chunk=64, slots=3, speculation=WRONG), max_tokens=24):
        metrics = one.output().metrics
        assert (metrics.steps, metrics.accepted_tokens) == (24, 0) and metrics.drafted_tokens > 60


def test_what_is_cached_is_what_it_would_be_without_drafts(monkeypatch):
    """Not what was computed behind the end of the answer; what is wrong there is written over."""
    monkeypatch.setattr("ellm.serving.prefix_cache.LEAST", 1)
    found = []
    for drafts in (RIGHT, None):
        engine = open_engine(Sums(), POSITIONS, chunk=30, speculation=drafts)
        first = completion(PROMPTS[0], max_tokens=20, stop_token_ids=summed(PROMPTS[0], 12)[-1:])
        engine.submit([first])
        finish(engine, [first])
        after = completion([*PROMPTS[0], *first.output().token_ids[:-1], 1, 2])
        engine.submit([after])
        finish(engine, [after])
        assert results([after])[0][0] == summed(after.sequence.tokens[: after.sequence.prompt_length].tolist(), 5)
        found.append(after.output().metrics.cached_tokens)
    assert found == [len(PROMPTS[0]) + 11] * 2


def test_a_sequence_that_gives_way_is_computed_again(monkeypatch):
    wanted = results(run(open_engine(Sums(), POSITIONS)))
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    engine = open_engine(Sums(), POSITIONS, chunk=30, slots=3, speculation=MIXED)
    used = lambda: sum(one.sequence.cached for one in engine.running) * 1024  # noqa: E731
    monkeypatch.setattr("ellm.system.memory.available", lambda: 60 * 1024 - used())
    completions = [completion(prompt, max_tokens=30) for prompt in PROMPTS]
    engine.submit(completions)
    while not all(one.sequence.done for one in completions):
        engine.room.unchecked = 0.0
        engine.step()
    assert results(completions) == wanted and engine.preemptions


def test_drafts_are_dropped_where_there_is_no_memory_for_them(monkeypatch):
    """An answer that fits without them does not fail."""
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    engine = open_engine(Sums(), POSITIONS, chunk=30, speculation=RIGHT)
    monkeypatch.setattr("ellm.system.memory.available", lambda: 1024 * (8 if not engine.running else 1))
    one = completion(PROMPTS[0], max_tokens=20)
    engine.submit([one])
    while not one.sequence.done:
        engine.room.unchecked = 0.0
        engine.step()
    assert one.output().token_ids == summed(PROMPTS[0], 20)
    assert one.output().metrics.steps == 20


def test_a_failed_step_with_drafts_fails_its_sequences():
    executable = Sums()
    engine = open_engine(executable, POSITIONS, chunk=30, speculation=RIGHT)
    one = completion(PROMPTS[0], max_tokens=20)
    engine.submit([one])
    engine.step()
    executable.stop_after, executable.error = 2, RuntimeError("broken")
    engine.step()
    assert one.sequence.error is executable.error and one.sequence.length == len(PROMPTS[0]) + 1


@pytest.mark.parametrize(
    "kind", [STATE, dataclasses.replace(POSITIONS, idempotent=False)], ids=["cut", "written again"]
)
def test_what_cannot_be_taken_back_is_not_drafted(kind):
    program = give_program(Sums(), kind).program
    assert choose("auto", program, 8).drafts is None
    assert (
        choose("auto", program, 8).reason
        == f"off: what this model keeps of a sequence ({kind.name}) cannot be taken back"
    )
    with pytest.raises(InputError, match="cannot be taken back"):
        choose("lookup", program, 8)
    assert choose("off", program, 8).drafts is None
    assert choose("auto", give_program(Sums(), POSITIONS).program, 8).drafts is not None


@pytest.mark.parametrize("wanted", ["heads", "on", "", None, 3])
def test_other_ways_to_draft_are_refused(wanted):
    with pytest.raises(InputError, match="speculate"):
        check(wanted)


def timed(costs, max_tokens, prompts=PROMPTS, **engine_options):
    """Steps of an engine in which a step of so many rows takes `costs(rows)` seconds; what each had as rows, too."""
    drafts, rows = Speculation(64), []
    measured = drafts.measured

    def told(shares, seconds):
        rows.append(sum(share.rows for share in shares))
        measured(shares, costs(rows[-1]))

    drafts.measured = told
    executable = Repeats()
    engine = open_engine(executable, POSITIONS, chunk=64, slots=3, speculation=drafts)
    completions = [completion(prompt, max_tokens=max_tokens) for prompt in prompts]
    engine.submit(completions)
    finish(engine, completions)
    return completions, rows


class Repeats(Sums):
    """Says 20 tokens again and again, whatever was said."""

    def compute(self, step):
        super().compute(step)
        for at, row in enumerate(step.logit_row):
            step.sampled[at] = int(step.positions[row]) % 20 + 1


def test_a_repeat_is_run_at_the_depth_that_rows_are_worth():
    prompt = [[at % 20 for at in range(21)]]
    flat, rows = timed(lambda rows: 1.0, 42, prompt)
    assert max(rows) >= 8 and flat[0].output().metrics.steps < 14
    linear, rows = timed(lambda rows: float(rows), 42, prompt)
    assert max(rows[1:]) <= 2 and linear[0].output().metrics.steps >= 38
    assert results(flat) == results(linear)


def test_what_does_not_pay_ends():
    """Tokens that look like a repeat and are none: some are tried, then no more."""
    drafts = Speculation(64)
    costs = drafts._cost(1)
    for _ in range(2):
        costs.measured(1, 1.0)
        costs.measured(2, 1.7)
    assert drafts._best([(31, 0.5)]).counts == [0]
    assert drafts._best([(31, 0.8)]).counts == [1]


def test_what_a_draft_itself_takes_is_counted():
    drafts = Speculation(64)
    for rows in (1, 1, 2, 2, 4, 4, 8):
        drafts._cost(1).measured(rows, 1.0)
    free, dear, too_dear = (drafts._best([(7, 0.8)], seconds) for seconds in (0.0, 0.3, 0.9))
    assert (free.counts, dear.counts, too_dear.counts) == ([7], [3], [0])
    assert free.worth > dear.worth > 1.03 and too_dear.worth == 0


def test_the_likeliest_drafts_get_the_rows():
    drafts = Speculation(64)
    costs = drafts._cost(3)
    for rows in (3, 3, 4, 4, 8, 8, 16, 16, 32):
        costs.measured(rows, 1.0 if rows <= 16 else 9.0)
    first, second, third = drafts._best([(31, 0.9), (0, 0.9), (31, 0.3)]).counts
    assert (second, first + third) == (0, 13) and first > 9 > third > 0


def test_no_more_rows_than_a_step_has_are_drafted():
    drafts = Speculation(speculation.MOST_ROWS)
    completions = [completion(prompt, max_tokens=40) for prompt in PROMPTS * 10]
    engine = open_engine(Repeats(), POSITIONS, chunk=speculation.MOST_ROWS, slots=30, speculation=drafts)
    drafts.measured = lambda shares, seconds: Speculation.measured(drafts, shares, 1.0)
    engine.submit(completions)
    finish(engine, completions)
    assert all(len(one.output().token_ids) == 40 for one in completions)
    assert sum(one.output().metrics.accepted_tokens for one in completions)
