"""Drafted tokens that are verified beside the rows that are due: more than one token a step, where that pays.

A draft is one more row of its sequence. All of these rows are drawn, each with the request's own random numbers of its
position, and a draft counts if it is what was drawn from the row before it: so the tokens are those of one row a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import nlargest

from ellm.scheduler.program import Program
from ellm.serving.batcher import Share
from ellm.serving.lookup import Lookup
from ellm.serving.step_costs import StepCosts
from ellm.system.errors import InputError, one_line

AUTO, LOOKUP, OFF, HEADS = "auto", "lookup", "off", "mtp"
MOST_ROWS = 64  # of a step with drafts
DEPTH = 31  # most drafts of a sequence
WORTH = 1.03  # times the tokens a second without drafts that a step with some must promise


class Speculation:
    """Gives the sequences of a decoding step as many drafts as should make for most tokens a second."""

    def __init__(self, chunk: int):
        self._most = min(chunk, MOST_ROWS)
        self._costs: dict[int, StepCosts] = {}  # by the number of sequences

    def drafted(self, shares: list[Share]) -> list[Share]:
        """The shares with drafts; the same list if there are none, as unless all are one row of a decoding sequence."""
        if len(shares) >= self._most or not all(share.decodes and not share.drafts for share in shares):
            return shares
        depth = min(DEPTH, self._most - len(shares))
        drafts = [_foretold(share, depth) for share in shares]
        if not any(tokens for tokens, _ in drafts) or not any(counts := self._best(drafts)):
            return shares
        return [
            replace(share, end=share.end + count, drafts=tokens[:count]) if count else share
            for share, (tokens, _), count in zip(shares, drafts, counts, strict=True)
        ]

    def measured(self, shares: list[Share], seconds: float) -> None:
        """A step of these shares, of decoding sequences all, took so long."""
        self._cost(len(shares)).measured(sum(share.rows for share in shares), seconds)

    def _cost(self, sequences: int) -> StepCosts:
        if sequences not in self._costs:
            self._costs[sequences] = StepCosts(sequences, self._most)
        return self._costs[sequences]

    def _best(self, drafts: list[tuple[list[int], float]]) -> list[int]:
        """How many of its drafts each sequence gets."""
        sequences, counts = len(drafts), [0] * len(drafts)
        expected = self._cost(sequences).expected()
        if not expected:
            return counts
        gains = _gains(drafts, expected[-1][0] - sequences)
        best, taken = WORTH * sequences / expected[0][1], 0
        for rows, seconds in expected[1:]:
            added = rows - sequences
            worth = (sequences + sum(gain for gain, _ in gains[:added])) / seconds
            if added <= len(gains) and worth > best:
                best, taken = worth, added
        for _, which in gains[:taken]:
            counts[which] += 1
        return counts


def _foretold(share: Share, most: int) -> tuple[list[int], float]:
    """Drafts, and how likely each is right if those before it are. The last token of a sequence is drawn, never run."""
    sequence = share.sequence
    if sequence.lookup is None:
        sequence.lookup = Lookup(sequence.tokens)
    tokens = sequence.lookup.foretell(sequence.length, most)
    if sequence.constraint is not None:
        tokens = [*sequence.constraint.useful(tokens)]
    return tokens[: max(0, sequence.limit - 1 - sequence.length)], sequence.lookup.chance


def _gains(drafts: list[tuple[list[int], float]], most: int) -> list[tuple[float, int]]:
    """(chance, sequence) of the drafts that are likeliest right, the likeliest first."""
    return nlargest(
        most, ((chance**at, i) for i, (tokens, chance) in enumerate(drafts) for at in range(1, len(tokens) + 1))
    )


@dataclass(frozen=True)
class Choice:
    """What drafts, if anything does, and why."""

    drafts: Speculation | None
    reason: str


def check(wanted: str) -> None:
    """Raise InputError unless `wanted` is a way to draft, or none."""
    if wanted == HEADS:
        raise InputError("speculate: mtp: ellm cannot run prediction heads yet; lookup runs with any model")
    if wanted not in (AUTO, LOOKUP, OFF):
        raise InputError(f"speculate must be auto, lookup or off, not {one_line(repr(wanted), 60)}")


def choose(wanted: str, program: Program, chunk: int) -> Choice:
    """What `wanted` comes to. Raises InputError for lookup if the caches of the program do not allow it."""
    if wanted == OFF:
        return Choice(None, "off: as asked for")
    fixed = [cache.kind.name for cache in program.caches if not (cache.kind.cuttable and cache.kind.idempotent)]
    if fixed and wanted == LOOKUP:
        raise InputError(f"speculate: lookup: what this model keeps of a sequence ({fixed[0]}) cannot be taken back")
    if fixed:
        return Choice(None, f"off: what this model keeps of a sequence ({fixed[0]}) cannot be taken back")
    return Choice(Speculation(chunk), "lookup")
