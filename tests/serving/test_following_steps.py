"""Steps that follow one another in one run of an executable: when they do, and that nobody can tell."""

import collections

import pytest
from engines import POSITIONS, STATE, Sums, completion, finish, open_engine, results, summed
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.scheduler import StepError
from ellm.serving.policy import Terms
from ellm.serving.speculation import Speculation


def always():
    return True


@pytest.fixture(params=[POSITIONS, STATE], ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def counts():
    found = collections.Counter()
    yield found
    assert found["followed"] > 100 and found["ended by what was drawn"] > 10 and found["ended by text"] > 10, found


REQUEST = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
    st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 30)},
        optional={
            "stop": st.sampled_from(["q", "ab", "z"]),
            "stop_token_ids": st.just([5, 17, 40]),
            "logprobs": st.just(1),
        },
    ),
    st.booleans(),  # somebody waits for each token
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(REQUEST, min_size=1, max_size=3), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_answers_are_those_of_one_step_after_the_other(counts, batches, random, disturbed):
    for kind in (POSITIONS, STATE):
        executable = Sums()
        engine, ended = open_engine(executable, kind, slots=3), []
        for batch in batches:
            completions = [completion(prompt, **params) for prompt, params, _ in batch]
            for one, (_, _, paced) in zip(completions, batch, strict=True):
                one.sequence.terms = Terms(paced=paced)
            engine.submit(completions)
            for _ in range(random.randrange(3)):
                engine.step(lambda: random.random() >= disturbed)
            ended += completions
        finish(engine, ended, lambda: random.random() >= disturbed)
        alone = [completion(prompt, **params) for batch in batches for prompt, params, _ in batch]
        for one in alone:
            plain = open_engine(Sums(), kind)
            plain.submit([one])
            finish(plain, [one])
        assert results(ended) == results(alone)
        assert [one.finish_reason for one in ended] == [one.finish_reason for one in alone]
        counts["followed"] += executable.followed
        counts["ended by what was drawn"] += sum(one.stop_reason in (5, 17, 40) for one in ended)
        counts["ended by text"] += sum(isinstance(one.stop_reason, str) for one in ended)
        assert engine.idle and engine.room.held(()) == 0 and len(engine.free_slots) == 3


def test_all_tokens_behind_the_prompt_come_of_one_run(kind):
    executable, one = Sums(), completion([5, 6], max_tokens=20)
    engine = open_engine(executable, kind)
    engine.submit([one])
    engine.step(always)
    assert executable.steps == 1, "the prompt's"
    engine.step(always)
    assert executable.steps == 20 and executable.followed == 18
    assert one.ended and one.output().token_ids == summed([5, 6], 20)


@pytest.mark.parametrize("how", ["drawn", "held"])
def test_a_step_ends_though_the_one_laid_out_behind_it_never_begins(kind, how, monkeypatch):
    executable, spent = Sums(), []
    one = completion([5, 6], max_tokens=20, stop_token_ids=summed([5, 6], 8)[-1:] if how == "drawn" else None)
    engine = open_engine(executable, kind)
    executable.before = lambda step: engine.hold() if how == "held" and executable.steps == 7 else None
    monkeypatch.setattr(engine.policy.times, "measured", lambda rows, attended, seconds, _: spent.append(seconds))
    engine.submit([one])
    finish(engine, [one], always)
    assert executable.followed and len(spent) == executable.steps and min(spent) > 0
    assert engine.statistics().step_seconds == pytest.approx(sum(spent))


def test_text_is_told_as_it_comes(kind):
    one, told = completion([5], max_tokens=6), []
    one.sequence.terms = Terms(paced=True)
    one.notify = lambda: told.append(len(one.drawn(0).token_ids))
    engine = open_engine(Sums(), kind)
    engine.submit([one])
    finish(engine, [one], always)
    assert told == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("how", ["submit", "cancel", "hold"])
def test_what_comes_meanwhile_ends_the_run(kind, how):
    executable, one, other = Sums(), completion([5, 6], max_tokens=30), completion([9])
    engine = open_engine(executable, kind)
    engine.submit([one])
    engine.step(always)

    def disturb(step):
        if executable.steps == 7:
            if how == "submit":
                engine.submit([other])
            elif how == "cancel":
                one.sequence.done = True
            engine.hold()

    executable.before = disturb
    engine.step(always)
    assert executable.steps == 8
    finish(engine, [one], always)
    assert one.output().token_ids == summed([5, 6], 8 if how == "cancel" else 30)[: len(one.output().token_ids)]


def test_who_waits_without_a_slot_keeps_nobody_from_going_on(kind):
    executable, completions = Sums(), [completion([5, 6], max_tokens=9), completion([9] * 4)]
    engine = open_engine(executable, kind, slots=1)
    engine.submit(completions)
    engine.step(always)
    engine.step(always)
    assert completions[0].ended and executable.followed == 7 and engine.waiting


def test_a_failed_step_that_followed_fails_those_in_it(kind):
    executable, one = Sums(), completion([5, 6], max_tokens=9)
    engine = open_engine(executable, kind)
    engine.submit([one])

    def fail(step):
        if executable.steps == 4:
            raise StepError(1, "layers.0.qkv")

    executable.before = fail
    finish(engine, [one], always)
    assert isinstance(one.sequence.error, StepError) and executable.followed == 3
    assert one.drawn(0).token_ids == summed([5, 6], 4), "what was drawn before is read"
    executable.before = lambda step: None
    again = completion([5], max_tokens=9)
    engine.submit([again])
    finish(engine, [again], always)
    assert again.output().token_ids == summed([5], 9)


def test_a_block_that_is_full_is_told_of_before_the_next_step(monkeypatch):
    monkeypatch.setattr("ellm.serving.batcher.SPLIT", 8)
    executable, one = Sums(), completion([5, 6], max_tokens=20)
    engine, filled = open_engine(executable, POSITIONS), []
    engine.submit([one])
    while not one.ended:
        engine.step(always)
        filled.append(one.sequence.cached or filled[-1])
    assert filled == [2, 8, 16, 16]


def test_steps_that_may_have_drafts_do_not_follow():
    executable, one = Sums(), completion([3, 4, 5, 6] * 5, max_tokens=12)
    speculation = Speculation(64)
    engine = open_engine(executable, POSITIONS, chunk=64, speculation=speculation)
    asked = []
    speculation.drafted = lambda shares: asked.append(len(shares)) or [*shares]
    engine.submit([one])
    finish(engine, [one], always)
    assert asked and executable.followed == 0 and one.output().token_ids == summed([3, 4, 5, 6] * 5, 12)
