"""Which rows of which sequences a step holds. It decides speed, never results, so any policy will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass

from ellm.kernels.contract import SPLIT
from ellm.serving.sequence import Sequence

Deal = Callable[[list[Sequence], int], Iterable[tuple[Sequence, int]]]
"""Chooses from sequences that have rows left, for a step of so many: each at most once, and how many of its rows.
The first that it chooses gets all of its rows or all of the step's."""


@dataclass(frozen=True)
class Share:
    """Rows of a sequence in a step: those of its tokens from `begin` to before `end`, the last ones `drafts`."""

    sequence: Sequence
    begin: int
    end: int
    draws: bool  # the last known token is the sequence's last: the next one is drawn from the logits of its row
    drafts: Many[int] = ()  # of the tokens that follow then, each of whose rows is drawn too

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.end - self.begin

    @property
    def known(self) -> int:
        """Where the tokens end that are no drafts."""
        return self.end - len(self.drafts)

    @property
    def decodes(self) -> bool:
        """Whether all that was known but the last token is computed."""
        return self.draws and self.known - self.begin == 1

    @property
    def goes_on(self) -> bool:
        """Whether its sequence will have one more row, whatever is drawn from its own but what ends it.

        Not where it fills a block, which others may be found to have: that comes before the next step.
        """
        sequence = self.sequence
        plain = self.decodes and not self.drafts and sequence.constraint is None and sequence.pooling is None
        return plain and not sequence.done and self.end % SPLIT != 0 and self.end + 1 < sequence.limit

    @property
    def next(self) -> Share:
        """The row behind it, whose token is still to be drawn."""
        return Share(self.sequence, self.end, self.end + 1, True)

    @property
    def drawn(self) -> int:
        """How many of its rows are drawn, the last ones."""
        return self.draws + len(self.drafts)

    @property
    def pooled(self) -> range:
        """Which of its rows are wanted for an embedding, counted from its first one."""
        if self.sequence.pooling is None:
            return range(0)
        wanted = self.sequence.pooling.wanted(self.begin, self.end)
        return range(wanted.start - self.begin, wanted.stop - self.begin)

    @property
    def scored(self) -> int:
        """How many of its rows say how likely the next token of the prompt was, the first ones."""
        sequence = self.sequence
        return max(0, min(self.end, sequence.prompt_length - 1) - self.begin) if sequence.scores_prompt else 0


@dataclass(frozen=True)
class Batcher:
    """Deals the `chunk` rows of a step out, as a policy says.

    At most `scored` of them say how likely the tokens of prompts were.
    """

    chunk: int
    deal: Deal
    scored: int = 1 << 30

    def shares(self, sequences: Iterable[Sequence], least: int = 1, most: int | None = None) -> list[Share]:
        """The next step of sequences, with `least` rows of each or more; empty if none has so many left.

        It has `most` rows at most (None: a chunk), unless one sequence needs more of them.
        """
        due = [one for one in sequences if not one.done and one.left >= least]
        left = self.chunk if most is None else min(self.chunk, max(least, most))
        shares, scored = [], self.scored
        for one, rows in self.deal(due, left) if due else ():
            rows = rows if not one.scored else min(rows, scored)
            scored -= min(rows, one.scored)
            if rows and rows >= least:
                draws = rows == one.left and one.pooling is None
                shares.append(Share(one, one.cached, one.cached + rows, draws))
        return shares

    def rows_of(self, sequence: Sequence) -> int:
        """How many of the rows that a sequence has left a step can hold, of which its program is chosen."""
        return min(sequence.left, self.scored) if sequence.scored else sequence.left
