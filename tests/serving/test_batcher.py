"""Which rows a step holds: for any arrivals, any policy, and steps of few or many rows of a sequence."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm import SamplingParams
from ellm.serving.batcher import Batcher
from ellm.serving.policy import Policy
from ellm.serving.sequence import Sequence

ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the step before which it comes
        st.integers(1, 40),  # tokens of its prompt
        st.integers(1, 6),  # tokens that it gets at most
        st.integers(0, 8),  # the step before which it is cancelled; 0: it is not
    ),
    min_size=1,
    max_size=8,
)


def by_policy(sequences, rows):
    return Policy(24, 4).deal(sequences, rows)


def newest_first(sequences, rows):
    for sequence in reversed(sequences):
        n = min(sequence.left, rows)
        rows -= n
        if n:
            yield sequence, n


def one_at_a_time(sequences, rows):
    return [(sequences[0], min(sequences[0].left, rows))]


class Simulation:
    """Sequences that come and go; runs what the batcher says and holds every step to what a step must be."""

    def __init__(self, batcher, least, arrivals):
        self.batcher, self.least = batcher, least  # rows of the steps, rising
        self.sequences = [
            Sequence(np.arange(prompt, dtype=np.int32), SamplingParams(max_tokens=answer), 64)
            for _, prompt, answer, _ in arrivals
        ]
        self.arrivals = arrivals
        self.ran = {id(sequence): [] for sequence in self.sequences}

    def run(self):
        number = 0
        while not all(sequence.done for sequence in self.sequences):
            assert number < 20 + sum(sequence.limit for sequence in self.sequences), "a sequence never ends"
            here = []
            for sequence, (come, _, _, cancelled) in zip(self.sequences, self.arrivals, strict=True):
                sequence.done |= bool(cancelled) and number >= max(come, cancelled)
                here += [sequence] if number >= come else []
            ran = [self.step(here, least) for least in reversed(self.least)]
            assert any(ran) or all(sequence.done for sequence in here), "nothing runs, though rows are due"
            number += 1

    def step(self, here, least):
        here = [one for one in here if max(n for n in self.least if n <= max(one.left, 1)) == least]
        shares = self.batcher.shares(here, least)
        assert sum(share.rows for share in shares) <= self.batcher.chunk
        assert len({id(share.sequence) for share in shares}) == len(shares)
        if self.batcher.deal is by_policy and any(share.rows > 1 for share in shares):
            decoding = {id(one) for one in here if one.left == 1 and not one.done}
            assert decoding <= {id(share.sequence) for share in shares}
        for share in shares:
            sequence = share.sequence
            assert not sequence.done and share.begin == sequence.cached < share.end <= sequence.length
            assert share.rows >= least
            assert share.draws == (share.end == sequence.length)
            self.ran[id(sequence)] += range(share.begin, share.end)
            sequence.cached = share.end
            if share.draws:
                sequence.append(share.end, [7], [0.0])
                sequence.done = sequence.length == sequence.limit
        return shares


@settings(max_examples=150, deadline=None)
@given(
    arrivals=ARRIVALS,
    chunk=st.integers(1, 24),
    least=st.sampled_from([(1,), (1, 6)]),
    policy=st.sampled_from([by_policy, newest_first, one_at_a_time]),
)
def test_every_position_runs_once_and_in_order(arrivals, chunk, least, policy):
    simulation = Simulation(Batcher(max(chunk, *least), policy), least, arrivals)
    simulation.run()
    for sequence, (_, _, _, cancelled) in zip(simulation.sequences, arrivals, strict=True):
        ran = simulation.ran[id(sequence)]
        assert ran == list(range(len(ran)))
        assert cancelled or len(ran) == sequence.limit - 1, "the last token is drawn, never run"


def test_the_batcher_changes_no_sequence():
    sequences = [Sequence(np.arange(n, dtype=np.int32), SamplingParams(), 64) for n in (9, 1, 5)]
    before = [(one.length, one.cached, one.done) for one in sequences]
    shares = Batcher(8, by_policy).shares(sequences)
    assert [(sequences.index(share.sequence), share.begin, share.end, share.draws) for share in shares] == [
        (1, 0, 1, True),
        (0, 0, 7, False),
    ]
    assert [(one.length, one.cached, one.done) for one in sequences] == before
