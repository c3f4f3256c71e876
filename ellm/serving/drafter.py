"""Drafts by a model's prediction heads: a program of its own, on what the model's steps leave behind.

A row of that program has a position's final hidden state and the token behind it, and foretells the token after that.
What it keeps lies beside the keys and values of its position, so whoever reads these finds it too; only at the end of
what is read it may have been made of another token than the one that follows there. Answers do not depend on it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ellm.kernels.contract import SAMPLING, SPLIT
from ellm.scheduler.step import Executable, StepInput
from ellm.serving.lookup import STEADY, agreeing
from ellm.serving.step_costs import FORGET, Measured

if TYPE_CHECKING:
    from collections.abc import Sequence as Many

    from ellm.serving.batcher import Share
    from ellm.serving.sequence import Sequence

DEPTH = 7  # most drafts of a sequence
KEPT = 128  # positions of a sequence that are shown to the heads at once if nothing is drafted meanwhile
CHANCE = 0.7  # that a draft is right if those before it are, before anything is known
STEADY_START = 31 / 32  # how much of what new sequences begin with is kept with each draft of any


@dataclass
class Trail:
    """What the heads are still to see of a sequence, and what they foretold of it."""

    first: int  # the position of the first of
    states: list[np.ndarray]  # float32 [n, width]: final hidden states, step by step
    end: int  # the position behind the last of them
    chance: float  # that a draft is right if those before it are
    length: int = 0  # how many tokens were known when
    foretold: list[int] = field(default_factory=list)  # were

    @property
    def rows(self) -> int:
        """How many positions they are."""
        return self.end - self.first

    def keep_last(self) -> None:
        """The heads have seen all of it; the last position is what drafts begin with."""
        self.first, self.states = self.end - 1, [self.states[-1][-1:].copy()]


class _Rows(NamedTuple):
    """Rows of a sequence in a step of the heads, from a position on."""

    sequence: Sequence
    first: int
    tokens: np.ndarray | list[int]  # the one behind each position
    hidden: np.ndarray  # float32 [n, width]


class Drafter:
    """Runs prediction heads beside an engine of so many `slots`.

    There is no `executable` while the model is given back. `spent`: seconds that its steps took.
    """

    def __init__(self, executable: Executable, slots: int):
        program = executable.program
        self.executable: Executable | None = executable
        self.spent = 0.0
        self.chance = CHANCE  # of new sequences
        self._chunk = program.chunk
        self._addresses = np.zeros(slots, np.uint64)
        self._blocks = np.zeros((slots, program.context_blocks), np.uint64)
        self._logits = np.empty((slots, program.vocab), np.float32)
        self._greedy = np.zeros(slots, SAMPLING)
        self._greedy["top_p"] = self._greedy["repeat_penalty"] = 1
        self._seconds: dict[int, Measured] = {}  # of a step that drafts, by the number of sequences
        self._asked = 0

    def follow(self, shares: Many[Share], executable: Executable) -> None:
        """Take what the step of these shares left behind; their tokens are known."""
        followed: list[Share] = []
        rows: list[int] = []
        begin = 0
        for share in shares:
            sequence = share.sequence
            if sequence.error is None and sequence.pooling is None:
                followed.append(share)
                rows += range(begin, begin + sequence.cached - share.begin)
            begin += share.rows
        hidden, begin = executable.hidden(np.array(rows, np.int32)), 0
        for share in followed:
            sequence = share.sequence
            new = hidden[begin : begin + sequence.cached - share.begin]
            begin += len(new)
            self._extend(sequence, share.begin, new.copy() if share.decodes else new)  # a prompt's are not kept
            trail = _trail(sequence)
            if not share.decodes or trail.rows > KEPT or trail.end // SPLIT > trail.first // SPLIT:
                self._show(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Show the heads the rest of a sequence that gives its range up, for those who go on where it ends."""
        if sequence.trail is not None and sequence.error is None:
            self._show(sequence)
        sequence.trail = None

    def most(self, sequence: Sequence) -> int:
        """How many drafts a decoding sequence can have: their keys stay in blocks that are begun."""
        trail = sequence.trail
        if trail is None or trail.end != sequence.cached or self.executable is None:
            return 0
        begun = -(-sequence.cached // SPLIT) * SPLIT - sequence.cached
        return max(0, min(DEPTH, begun + 1, sequence.limit - 1 - sequence.length))

    def chance_of(self, sequence: Sequence) -> float:
        """How likely a draft of a sequence is right if those before it are, by what came of the last ones.

        It is asked once a step. Without drafts it slowly becomes what it was at first, so that some are tried again.
        """
        trail = sequence.trail
        if trail is None:
            return self.chance
        if not trail.foretold:
            trail.chance += (CHANCE - trail.chance) / FORGET
            self.chance += (CHANCE - self.chance) / FORGET
            return trail.chance
        came = sequence.tokens[trail.length : sequence.length].tolist()
        right = agreeing(trail.foretold, came)
        wrong = right < min(len(came), len(trail.foretold))
        trail.chance = _judged(trail.chance, right, wrong, STEADY)
        self.chance = _judged(self.chance, right, wrong, STEADY_START)
        trail.foretold = []
        return trail.chance

    def seconds(self, sequences: int) -> float:
        """What a draft of each of so many sequences takes; 0 if that is not known, or was long ago."""
        self._asked += 1
        found = self._seconds.get(sequences)
        return found.seconds if found and found.sure and self._asked - found.step <= FORGET else 0.0

    def draft(self, sequences: Many[Sequence], counts: Many[int]) -> list[list[int]]:
        """So many tokens that may follow each sequence, no more than `most`."""
        drafts: list[list[int]] = [[] for _ in sequences]
        due = [i for i, count in enumerate(counts) if count]
        if sum(_trail(sequences[i]).rows for i in due) > self._chunk:
            for i in due:
                self._show(sequences[i])
        rows = [self._unseen(sequences[i]) for i in due]
        begun, depth = time.perf_counter(), 0
        while due:
            depth += 1
            found, hidden = self._run(rows, drawing=True)
            for i, token in zip(due, found, strict=True):
                drafts[i].append(token)
            going = [at for at, i in enumerate(due) if counts[i] > depth]
            due = [due[at] for at in going]
            rows = [
                _Rows(sequences[i], sequences[i].cached - 1 + depth, [found[at]], hidden[at : at + 1])
                for i, at in zip(due, going, strict=True)
            ]
        self._measure(len(sequences), (time.perf_counter() - begun) / depth)
        for sequence, tokens in zip(sequences, drafts, strict=True):
            if tokens:
                trail = _trail(sequence)
                trail.keep_last()
                trail.length, trail.foretold = sequence.length, tokens
        return drafts

    def _measure(self, sequences: int, seconds: float) -> None:
        if sequences in self._seconds:
            self._seconds[sequences].again(seconds, self._asked)
        else:
            self._seconds[sequences] = Measured(seconds, self._asked)

    def _extend(self, sequence: Sequence, first: int, states: np.ndarray) -> None:
        trail = sequence.trail
        if trail is None:
            trail = sequence.trail = Trail(first, [], first, self.chance)
        elif trail.end != first:
            trail.first, trail.states = first, []
        trail.states.append(states)
        trail.end = first + len(states)

    def _show(self, sequence: Sequence) -> None:
        """Run the heads on what they have not seen of a sequence."""
        rows, trail = self._unseen(sequence), _trail(sequence)
        for begin in range(0, len(rows.tokens), self._chunk):
            part = slice(begin, begin + self._chunk)
            self._run([_Rows(sequence, rows.first + begin, rows.tokens[part], rows.hidden[part])])
        trail.keep_last()

    def _unseen(self, sequence: Sequence) -> _Rows:
        """The positions of a trail whose next token is known."""
        trail = _trail(sequence)
        tokens = sequence.tokens[trail.first + 1 : min(trail.end + 1, sequence.length)]
        return _Rows(sequence, trail.first, tokens, np.concatenate(trail.states)[: len(tokens)])

    def _run(self, parts: list[_Rows], drawing: bool = False) -> tuple[list[int], np.ndarray]:
        """Run a step; if `drawing`, the likeliest token behind each part, and the state that its last row leaves."""
        assert self.executable is not None
        for part in parts:
            sequence = part.sequence
            assert sequence.range is not None
            self._addresses[sequence.slot], self._blocks[sequence.slot] = sequence.range.address, sequence.blocks
        lengths = [len(part.tokens) for part in parts]
        last = np.cumsum(lengths) - 1
        drawn = len(parts) if drawing else 0
        inputs = StepInput.of(
            np.concatenate([part.first + np.arange(len(part.tokens)) for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            slots=np.repeat([part.sequence.slot for part in parts], lengths),
            ranges=self._addresses,
            blocks=self._blocks,
            logit_row=last[:drawn],
            logits=self._logits[:drawn],
            sampling=self._greedy[:drawn],
            input_rows=np.concatenate([part.hidden for part in parts]),
        )
        begun = time.perf_counter()
        self.executable.run(inputs)
        self.spent += time.perf_counter() - begun
        assert inputs.sampled is not None
        return inputs.sampled.tolist(), self.executable.hidden(last[:drawn])


def _trail(sequence: Sequence) -> Trail:
    assert sequence.trail is not None
    return sequence.trail


def _judged(chance: float, right: int, wrong: bool, steady: float) -> float:
    """A chance after so many right drafts, and perhaps a wrong one."""
    chance = 1 - (1 - chance) * steady**right
    return chance * steady if wrong else chance
