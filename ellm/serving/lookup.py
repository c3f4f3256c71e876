"""Foretells how a sequence goes on: as it did after the same tokens the last time."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from zlib import crc32

import numpy as np

RUNS = (8, 3)  # tokens that must be the same; the longest run that is found counts
SLOTS = 1 << 16  # most places of a table: 256 KiB
LONG, VERY_LONG = 8, 32  # tokens of matches
CHANCES = (0.3, 0.7, 0.9)  # of matches shorter than LONG, than VERY_LONG, and others, before anything is known
STEADY = 7 / 8  # how much of a chance is kept with each token that it is judged by


class Lookup:
    """What may follow in int32 [limit] tokens, of which ever more are known.

    Each run of tokens has its last place in a table, by its hash; a newer one with the same hash takes the slot, so
    that tables never grow. A match goes on, and becomes longer, while what it foretold is what comes. All that was
    foretold is judged, whether or not anybody made use of it.
    """

    def __init__(self, tokens: np.ndarray):
        self._tokens = tokens
        slots = min(SLOTS, 1 << (4 * len(tokens)).bit_length())  # few tokens share one by chance
        self._tables = {run: array("i", bytes(4 * slots)) for run in RUNS}
        self._mask = slots - 1
        self._indexed = 0  # runs that end before this many tokens are in the tables
        self._chances = [*CHANCES]
        self._place = self._matched = 0  # the tokens at `_place` foretell what follows, as so many before are the same
        self._at = 0  # how many tokens were known then
        self._foretold: list[int] = []

    def foretell(self, length: int, most: int) -> list[int]:
        """At most so many tokens that may follow the first `length`, which are all that are known by now."""
        place, matched = self._going_on(length)
        self._index(length)
        if matched < LONG:
            place, matched = self._longer(length, place, matched)
        foretold = self._following(place, length, most + 1) if matched else []
        self._place, self._matched, self._at, self._foretold = place, matched, length, foretold
        return foretold[:most]

    @property
    def chance(self) -> float:
        """How likely a foretold token is right if those before it are, from 0 to 1."""
        return self._chances[self._level]

    @property
    def _level(self) -> int:
        return (self._matched >= LONG) + (self._matched >= VERY_LONG)

    def _going_on(self, length: int) -> tuple[int, int]:
        """Judge what was foretold by what came; the match, as it goes on, or none."""
        came = self._tokens[self._at : length].tolist()
        right = agreeing(self._foretold, came)
        if self._foretold:
            chance = 1 - (1 - self.chance) * STEADY**right
            wrong = right < min(len(came), len(self._foretold))
            self._chances[self._level] = chance * STEADY if wrong else chance
        return (self._place + right, self._matched + right) if right == len(came) else (0, 0)

    def _index(self, length: int) -> None:
        for run, table in self._tables.items():
            first, size = max(self._indexed, run), 4 * run
            new = self._tokens[first - run : length].tobytes()
            for end in range(first, length):
                at = 4 * (end - first)
                table[crc32(new[at : at + size]) & self._mask] = end
        self._indexed = length

    def _longer(self, length: int, place: int, matched: int) -> tuple[int, int]:
        """The last match that is longer than one that there is."""
        for run, table in self._tables.items():
            if matched < run < length:
                last = self._tokens[length - run : length].tobytes()
                end = table[crc32(last) & self._mask]
                if end and self._tokens[end - run : end].tobytes() == last:
                    return end, run
        return place, matched

    def _following(self, place: int, length: int, most: int) -> list[int]:
        """The tokens at a place; those that end where the sequence does go round."""
        found = self._tokens[place : min(place + most, length)].tolist()
        return (found * -(-most // len(found)))[:most]


def agreeing(drafts: Sequence[int], tokens: Sequence[int]) -> int:
    """How many of the first drafts are the tokens there."""
    for at, (draft, token) in enumerate(zip(drafts, tokens, strict=False)):
        if draft != token:
            return at
    return min(len(drafts), len(tokens))
