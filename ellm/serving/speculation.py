"""Drafted tokens that are verified beside the rows that are due: more than one token a step, where that pays.

A draft is one more row of its sequence. All of these rows are drawn, each with the request's own random numbers of its
position, and a draft counts if it is what was drawn from the row before it: so the tokens are those of one row a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import nlargest

from ellm.compiled import Source
from ellm.scheduler.program import Program
from ellm.serving.batcher import Share
from ellm.serving.drafter import Drafter
from ellm.serving.lookup import Lookup
from ellm.serving.step_costs import StepCosts
from ellm.system.errors import InputError, one_line

AUTO, LOOKUP, MTP, OFF = "auto", "lookup", "mtp", "off"
MOST_ROWS = 64  # of a step with drafts
DEPTH = 31  # most drafts of a sequence
WORTH = 1.03  # times the tokens a second without drafts that a step with some must promise


class Speculation:
    """Gives the sequences of a decoding step as many drafts as should make for most tokens a second.

    They come of what followed the same tokens before, if it `looks_up`, or of a `drafter`, whichever promises more.
    """

    def __init__(self, chunk: int, looks_up: bool = True, drafter: Drafter | None = None):
        self._most = min(chunk, MOST_ROWS)
        self._looks_up, self._drafter = looks_up, drafter
        self._costs: dict[int, StepCosts] = {}  # by the number of sequences

    def drafted(self, shares: list[Share]) -> list[Share]:
        """The shares with drafts; the same list if there are none, as unless all are one row of a decoding sequence."""
        if len(shares) >= self._most or not all(share.decodes and not share.drafts for share in shares):
            return shares
        depth = min(DEPTH, self._most - len(shares))
        drafts = [_foretold(share, depth) if self._looks_up else ([], 0.0) for share in shares]
        found = self._best([(len(tokens), chance) for tokens, chance in drafts])
        tokens = [tokens[:count] for (tokens, _), count in zip(drafts, found.counts, strict=True)]
        if self._drafter is not None and (by_heads := self._by_heads(self._drafter, shares)).worth > found.worth:
            tokens = self._drafter.draft([share.sequence for share in shares], by_heads.counts)
            tokens = [_allowed(share, some) for share, some in zip(shares, tokens, strict=True)]
        if not any(tokens):
            return shares
        return [
            replace(share, end=share.end + len(some), drafts=some) if some else share
            for share, some in zip(shares, tokens, strict=True)
        ]

    def measured(self, shares: list[Share], seconds: float) -> None:
        """A step of these shares, of decoding sequences all, took so long."""
        self._cost(len(shares)).measured(sum(share.rows for share in shares), seconds)

    def _cost(self, sequences: int) -> StepCosts:
        if sequences not in self._costs:
            self._costs[sequences] = StepCosts(sequences, self._most)
        return self._costs[sequences]

    def _by_heads(self, drafter: Drafter, shares: list[Share]) -> _Plan:
        sequences = [share.sequence for share in shares]
        some = [(drafter.most(sequence), drafter.chance_of(sequence)) for sequence in sequences]
        return self._best(some, drafter.seconds(len(shares)))

    def _best(self, drafts: list[tuple[int, float]], draft_seconds: float = 0.0) -> _Plan:
        """How many of so many drafts each sequence gets; a chance is that one is right if those before it are.

        To draft one of each sequence takes `draft_seconds`.
        """
        sequences = len(drafts)
        expected = self._cost(sequences).expected()
        plan = _Plan(0.0, [0] * sequences)
        if not expected or not any(most for most, _ in drafts):
            return plan
        gains = _gains(drafts, expected[-1][0] - sequences)
        best, taken = WORTH * sequences / expected[0][1], 0
        for rows, seconds in expected[1:]:
            added = rows - sequences
            depth = max((at for _, at, _ in gains[:added]), default=0)
            worth = (sequences + sum(gain for gain, _, _ in gains[:added])) / (seconds + depth * draft_seconds)
            if added <= len(gains) and worth > best:
                best, taken = worth, added
        for _, _, which in gains[:taken]:
            plan.counts[which] += 1
        return replace(plan, worth=best if taken else 0.0)


@dataclass(frozen=True)
class _Plan:
    """Tokens a second that drafts promise, 0 without any, and how many each sequence gets."""

    worth: float
    counts: list[int]


def _foretold(share: Share, most: int) -> tuple[list[int], float]:
    """Drafts, and how likely each is right if those before it are. The last token of a sequence is drawn, never run."""
    sequence = share.sequence
    if sequence.lookup is None:
        sequence.lookup = Lookup(sequence.tokens)
    return _allowed(share, sequence.lookup.foretell(sequence.length, most)), sequence.lookup.chance


def _allowed(share: Share, tokens: list[int]) -> list[int]:
    """The drafts of a sequence that its answer may have."""
    sequence = share.sequence
    if sequence.constraint is not None:
        tokens = [*sequence.constraint.useful(tokens)]
    return tokens[: max(0, sequence.limit - 1 - sequence.length)]


def _gains(drafts: list[tuple[int, float]], most: int) -> list[tuple[float, int, int]]:
    """(chance, number of its sequence's, sequence) of the drafts that are likeliest right, the likeliest first."""
    return nlargest(
        most, ((chance**at, at, i) for i, (count, chance) in enumerate(drafts) for at in range(1, count + 1))
    )


@dataclass(frozen=True)
class Choice:
    """What drafts, if anything does, and why."""

    drafts: Speculation | None
    reason: str


def check(wanted: str) -> None:
    """Raise InputError unless `wanted` is a way to draft, or none."""
    if wanted not in (AUTO, LOOKUP, MTP, OFF):
        raise InputError(f"speculate must be auto, lookup, mtp or off, not {one_line(repr(wanted), 60)}")


def takes_heads(wanted: str, source: Source, model: str) -> bool:
    """Whether prediction heads of a model are to be loaded. Raises InputError if they are `wanted` and it has none."""
    check(wanted)
    missing = source.no_drafter if wanted in (AUTO, MTP) else ""
    if missing and wanted == MTP:
        raise InputError(f"{model}: speculate: mtp: {missing}; lookup runs with any model")
    return wanted in (AUTO, MTP) and not missing


def choose(wanted: str, program: Program, chunk: int, drafter: Drafter | None = None) -> Choice:
    """What `wanted` comes to. Raises InputError if it is a way to draft that the caches of the program do not allow."""
    if wanted == OFF:
        return Choice(None, "off: as asked for")
    fixed = [cache.kind.name for cache in program.caches if not (cache.kind.cuttable and cache.kind.idempotent)]
    if fixed and wanted != AUTO:
        raise InputError(f"speculate: {wanted}: what this model keeps of a sequence ({fixed[0]}) cannot be taken back")
    if fixed:
        return Choice(None, f"off: what this model keeps of a sequence ({fixed[0]}) cannot be taken back")
    heads = [] if drafter is None else ["prediction heads"]
    looks_up = wanted != MTP
    return Choice(Speculation(chunk, looks_up, drafter), " and ".join([LOOKUP] * looks_up + heads))
