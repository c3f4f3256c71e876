"""The policy in simulated time: nobody starves, steps stay within their bounds, and classes count."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.predict.traffic import Request, Traffic
from ellm.serving.policy import MOST_PARTIAL, Policy, Terms
from ellm.serving.step_times import StepTimes

BLOCK = 64
INTERACTIVE, BATCH = 0, 1


def request(prompt, output=1, arrived=0.0, priority=INTERACTIVE, paced=True):
    return Request(Terms(priority, paced, arrived), prompt, output)


def seconds(shares):
    """Of a machine: a step, its rows, and what they attend to."""
    return 0.01 + 0.0005 * sum(rows for _, rows in shares) + 1e-8 * sum(rows * (at + rows) for at, rows in shares)


REQUESTS = st.lists(
    st.builds(
        request,
        st.integers(1, 400),
        st.integers(1, 30),
        st.floats(0, 3),
        st.sampled_from([INTERACTIVE, BATCH]),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


class Watched(Traffic):
    """Holds every step to what a step must be."""

    def step(self):
        before = [one.cached for one in self.running]
        running = list(self.running)
        dealt = super().step()
        rows = [rows for _, rows in dealt]
        assert sum(rows) <= self.policy.chunk and min(rows) >= 1, "a step without rows, or with too many"
        assert len({id(one) for one, _ in dealt}) == len(dealt)
        due = [one for one, cached in zip(running, before, strict=True) if one.preemptions == 0 and cached]
        decoding = [one for one in due if one.length - cached_of(one, dealt) == 1]
        assert len(running) > self.policy.chunk or all(any(one is other for other, _ in dealt) for one in decoding)
        for priority in (INTERACTIVE, BATCH):
            begun = [one for one in self.running if one.left > 1 and one.terms.priority == priority]
            assert len(begun) <= MOST_PARTIAL
        return dealt


def cached_of(one, dealt):
    """What of it was computed before the step."""
    return one.cached - sum(rows for other, rows in dealt if other is one)


@settings(max_examples=150, deadline=None)
@given(
    requests=REQUESTS,
    chunk=st.sampled_from([1, 7, 64, 130, 512]),
    slots=st.integers(1, 8),
    positions=st.sampled_from([math.inf, 450.0, 900.0]),
    target=st.sampled_from([None, 0.02, 0.1]),
)
def test_all_are_answered_whatever_comes(requests, chunk, slots, positions, target):
    traffic = Watched(Policy(chunk, BLOCK, target), seconds, slots=slots, positions=positions)
    traffic.serve(requests)
    for one in requests:
        assert one.done and one.tokens == sorted(one.tokens) and one.tokens[0] > one.terms.arrived


def test_streams_wait_no_longer_than_twice_their_step_or_a_row_block():
    for size, most in ((10, seconds([(0, BLOCK)])), (300, 2 * seconds([(0, 1)] * 300))):
        traffic = Traffic(Policy(2048, BLOCK), seconds, slots=512)
        streams = [request(10, 60) for _ in range(size)]
        long = request(8000, 1, arrived=0.5)
        traffic.serve([*streams, long])
        gaps = [gap for one in streams for gap in one.gaps[2:]]
        assert max(gaps) <= 1.1 * (most + seconds([(8000, 1)]))
        assert max(gaps) > 1.05 * seconds([(0, 1)] * size), "the prompt was computed beside them"


def test_a_target_is_kept():
    traffic = Traffic(Policy(2048, BLOCK, target=0.03), seconds)
    streams = [request(10, 300) for _ in range(4)]
    traffic.serve([*streams, request(4000, 1, arrived=0.5), request(4000, 1, arrived=0.6)])
    gaps = sorted(gap for one in streams for gap in one.gaps[10:])
    assert 0.025 < gaps[-1] < 0.035


def test_without_readers_a_step_is_a_chunk():
    for priority, paced in ((INTERACTIVE, False), (BATCH, False)):
        traffic, ran = Traffic(Policy(512, BLOCK), seconds), []
        for one in [*(request(1, 40, 0.0, priority, paced) for _ in range(4)), request(4000, 1, 0.1, priority, paced)]:
            traffic.waiting.append(one)
        while traffic.waiting or traffic.running:
            ran.append(sum(rows for _, rows in traffic.step()))
        assert max(ran) == 512 and ran.count(512) == 7


def test_a_long_prompt_is_not_starved_by_short_ones():
    """It waits for those that come while it could be computed, and for none that come later."""
    policy = Policy(256, BLOCK)
    policy.times.measured(256, 0, seconds([(0, 256)]), False)
    long = request(5000, 1, arrived=1.0)
    short = [request(200, 1, arrived=0.01 * i) for i in range(1000)]  # ten times of what the machine can do
    Traffic(policy, seconds).serve([long, *short])
    before = [one for one in short if one.tokens[0] < long.tokens[0]]
    needs = 5000 * policy.times.row_seconds
    assert max(one.terms.arrived for one in before) < 1.0 + 1.2 * needs < short[-1].terms.arrived


def test_short_prompts_go_first():
    traffic = Traffic(Policy(64, BLOCK), seconds)
    traffic.policy.times.measured(64, 0, seconds([(0, 64)]), False)
    long, short = request(3000, 1, 0.0), request(30, 1, 0.2)
    traffic.serve([long, short])
    assert short.first < 0.15 < long.first


def test_no_more_than_two_long_prompts_are_under_way():
    traffic = Traffic(Policy(64, BLOCK), seconds)
    many = [request(1000, 1, 0.001 * i) for i in range(6)]
    traffic.serve([*many, request(1000, 1, 0.2, BATCH)])
    assert [one.tokens[0] for one in many] == sorted(one.tokens[0] for one in many)


def test_batch_waits_for_interactive_and_gives_way():
    traffic = Traffic(Policy(64, BLOCK), seconds, slots=2)
    batch = [request(300, 400, 0.0, BATCH, paced=False) for _ in range(2)]
    quick = [request(100, 10, 0.5 + 0.2 * i) for i in range(4)]
    traffic.serve([*batch, *quick])
    assert batch[1].preemptions and not any(one.preemptions for one in quick)
    assert max(one.tokens[-1] for one in quick) < min(one.tokens[-1] for one in batch)
    assert max(one.first for one in quick) < 0.4


def test_the_newest_of_the_lowest_class_gives_way():
    policy = Policy(64, BLOCK)
    old, new = request(5, arrived=1.0), request(5, arrived=2.0)
    first, last = request(5, arrived=0.0, priority=BATCH), request(5, arrived=0.5, priority=BATCH)
    assert policy.victim([old, first, last, new]) is last
    assert policy.victim([old, new]) is new
    assert policy.victim([old, new], above=INTERACTIVE) is None
    assert policy.victim([old, first], above=INTERACTIVE) is first
    assert policy.victim([old, last], above=BATCH) is None
    same = [request(5), request(5)]
    assert policy.victim(same) is same[1]


def test_what_cannot_make_it_is_late():
    policy = Policy(64, BLOCK)
    one = Request(Terms(deadline=10.0), 1000, 1)
    assert not policy.late(one, 9.9), "nobody knows yet how long it takes"
    assert policy.late(one, 10.1)
    policy.times.measured(64, 0, 0.64, False)
    assert policy.late(one, 0.5) and not policy.late(one, -0.5)
    one.cached = 999
    assert not policy.late(one, 9.999)
    assert not policy.late(request(10**9), 1e9)


@given(a=st.floats(0.001, 0.1), b=st.floats(1e-4, 0.01), c=st.floats(0, 1e-6), times_more=st.floats(0.3, 3))
def test_step_times_are_found(a, b, c, times_more):
    """Also those of a machine that has become slower or faster."""
    times = StepTimes(BLOCK)
    for factor in [1.0] * 3 + [times_more] * 60:
        for rows, attended, decoding in (
            (4, 400, True),
            (64, 4096, False),
            (256, 60_000, False),
            (512, 900_000, False),
        ):
            times.measured(rows, attended, (a + b * rows + c * attended) * factor, decoding)
    assert times.decoding(7) == pytest.approx(times_more * (a + 4 * b + 400 * c), rel=0.01)
    wanted = times_more * (b + c * 1000)
    assert times.rows_within(100 * wanted, 1000) == pytest.approx(100, abs=3)
    assert times.row_seconds == pytest.approx(times_more * (a + 512 * b + 900_000 * c) / 512, rel=0.01)


def test_nothing_is_known_before_the_first_step():
    times = StepTimes(BLOCK)
    assert (times.rows_within(1.0, 100), times.decoding(3), times.row_seconds) == (0, 0.0, 0.0)
    assert Policy(512, BLOCK).limit([decoding(), request(1000)]) == BLOCK
    assert Policy(512, BLOCK, target=1.0).limit([decoding(), request(1000)]) == 17
    assert Policy(512, BLOCK).limit([request(1000)]) == 512


def decoding():
    one = request(5, 10)
    one.tokens, one.cached = [0.0], 5
    return one


@pytest.mark.parametrize("rows", [63, 64, 65, 200])
def test_decoding_rows_are_all_in(rows):
    policy = Policy(512, BLOCK)
    many = [decoding() for _ in range(rows)]
    limit = policy.limit([*many, request(1000)])
    assert limit % BLOCK == 0 and rows < limit <= rows + BLOCK
