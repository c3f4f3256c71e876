"""Which rows of which sequences a step holds. It decides speed, never results, so any policy will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass

from ellm.serving.sequence import Sequence

Policy = Callable[[list[Sequence], int], Iterable[tuple[Sequence, int]]]
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
    def drawn(self) -> int:
        """How many of its rows are drawn, the last ones."""
        return self.draws + len(self.drafts)


def decoding_first(sequences: list[Sequence], rows: int) -> Iterable[tuple[Sequence, int]]:
    """One row of each sequence that is decoding, then as much of the prompts as fits, each in the order given."""
    for sequence in sorted(sequences, key=lambda one: one.left > 1):
        if rows:
            yield sequence, min(sequence.left, rows)
            rows -= min(sequence.left, rows)


@dataclass(frozen=True)
class Batcher:
    """Deals the `chunk` rows of a step out."""

    chunk: int
    policy: Policy = decoding_first

    def shares(self, sequences: Iterable[Sequence], least: int = 1) -> list[Share]:
        """The next step of sequences, with `least` rows of each or more; empty if none has so many left."""
        due = [one for one in sequences if not one.done and one.left >= least]
        dealt = self.policy(due, self.chunk) if due else ()
        return [
            Share(one, one.cached, one.cached + rows, draws=rows == one.left) for one, rows in dealt if rows >= least
        ]
