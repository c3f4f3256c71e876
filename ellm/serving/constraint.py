"""Keeps the answer of a sequence to a grammar: which tokens each of its rows may draw, and which it must."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ellm.system.errors import InputError, one_line
from ellm.text.reader import Reader

if TYPE_CHECKING:
    from llguidance import LLMatcher

ANY, ALLOWED, ENDED, GIVEN = range(4)  # what a row may draw: any token, those of its mask, which may all be ends, or
# the one that is given


class Unfollowable(InputError):
    """A grammar that turned out to allow nothing, or to be too complex."""


def complaint(matcher: LLMatcher) -> str:
    """What a matcher that is in error says of it."""
    return one_line(matcher.get_error().replace("<non-verbose/>", ""))


class Constraint:
    """A matcher that follows the tokens of an answer, from the first one behind the prompt on.

    What it says depends on these tokens alone, not on how many rows or steps they took. Where a text has no choice,
    the tokens for it are `forced`: all of them are taken before anything is drawn again. The grammar begins where the
    answer does: reasoning before it is free, and so is what follows the token that ends the answer. `reader` makes what
    tells the two apart.
    """

    def __init__(self, matcher: LLMatcher, ends: Iterable[int], reader: Callable[[], Reader]):
        self.forced: deque[int] = deque()
        self._matcher, self._ends = matcher, frozenset(ends)
        self._followed = 0  # tokens of the answer
        self._over = False
        self._failure: BaseException | None = None
        self._new_reader = reader
        self._reader: Reader | None = reader()  # until the answer begins
        self._marks, self._opening = self._reader.marks, self._reader.opening
        if self._reader.answering:
            self._begin()

    @property
    def active(self) -> bool:
        """Whether the next token is bound to the grammar."""
        return self._reader is None and not self._over

    @property
    def error(self) -> BaseException | None:
        """What has gone wrong; Unfollowable if it is the grammar's fault."""
        if self._failure is not None or not self._matcher.is_error():
            return self._failure
        return Unfollowable(f"structured_outputs: {complaint(self._matcher)}")

    def fail(self, error: BaseException) -> None:
        """Have nothing else be known of it."""
        self._failure = error

    def follow(self, answer: np.ndarray) -> None:
        """Take in what is new of the tokens of the answer."""
        for token in answer[self._followed :].tolist():
            self._followed += 1
            self._take(token)

    def useful(self, drafts: Sequence[int]) -> Sequence[int]:
        """The first of some drafts that may be right, and whose rows' masks `lay_out` can tell."""
        if not self.active:
            marked = (at for at, draft in enumerate(drafts) if draft in self._marks)
            return drafts[: 0 if self._reader and not self._marks else next(marked, len(drafts))]
        return drafts[: self._matcher.validate_tokens(list(drafts))]

    def lay_out(self, drafts: Sequence[int], masks: np.ndarray, given: np.ndarray) -> list[int]:
        """What each row may draw if its drafts are right: masks, uint32 [1 + drafts, words], and given, int32.

        Rows behind a draft that cannot be right may draw anything: they do not count.
        """
        if not self.active:
            return [ANY] * (1 + len(drafts))
        kinds, forced, taken = [], deque(self.forced), 0
        for row in range(1 + len(drafts)):
            if forced:
                given[row] = forced[0]
            else:
                self._matcher.unsafe_compute_mask_ptr(masks[row].ctypes.data, masks[row].nbytes)
                self._let_reasoning_begin(masks[row], row)
            kinds.append(GIVEN if forced else ENDED if self._matcher.is_stopped() else ALLOWED)
            if row == len(drafts) or not self._may_take(drafts[row], forced):
                break
            taken += 1
            if forced:
                forced.popleft()
            if not forced:
                forced = self._forced()
        if taken:
            self._matcher.rollback(taken)
        return kinds + [ANY] * (1 + len(drafts) - len(kinds))

    def _may_take(self, draft: int, forced: deque[int]) -> bool:
        if draft in self._ends or (forced and draft != forced[0]):
            return False
        return self._matcher.try_consume_tokens([draft]) == 1

    def _let_reasoning_begin(self, mask: np.ndarray, row: int) -> None:
        if self._opening is not None and self._followed == row == 0:
            mask[self._opening >> 5] |= np.uint32(1 << (self._opening & 31))

    def _take(self, token: int) -> None:
        if self._over:
            return
        if self._reader is not None:
            self._reader.push(token)
            if self._reader.answering:
                self._begin()
        elif token == self._opening and self._followed == 1:
            self.forced.clear()
            self._reader = self._new_reader()
            self._reader.push(token)
        elif self.forced:
            self._matcher.consume_token(self.forced.popleft())
        else:
            self._over = token in self._ends
            self._matcher.consume_token(token)
        if self.active and not self.forced:
            self.forced = self._forced()

    def _begin(self) -> None:
        self._reader = None
        if self._opening is None or self._followed:
            self.forced = self._forced()

    def _forced(self) -> deque[int]:
        """The tokens that must follow now, of those that the matcher takes."""
        tokens = self._matcher.compute_ff_tokens()
        return deque(tokens[: self._matcher.validate_tokens(tokens)] if tokens else ())
