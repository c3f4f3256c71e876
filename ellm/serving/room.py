"""Memory for keys and values: the ranges of sequences, and whether what is about to be written still fits."""

from __future__ import annotations

from collections.abc import Iterable

from ellm.compiled import EXPANDED_ROWS, token_bytes
from ellm.scheduler.program import Program
from ellm.serving.batcher import Share
from ellm.serving.ranges import PromptCache, RangePool
from ellm.serving.sequence import Sequence
from ellm.system import memory
from ellm.system.errors import InputError

MARGIN = 32 << 20  # bytes of keys and values between looks at the memory that is left, and what is left over at least


class Room:
    """Ranges for the sequences of `program`, and of `prefill`, which keeps behind its part what only a prompt needs."""

    def __init__(self, program: Program, prefill: Program | None = None):
        self.ranges = RangePool(prefill.range_bytes if prefill else program.range_bytes)
        self.position_bytes = sum(one.bytes - one.kind.sequence_bytes for one in program.caches) / program.context
        self.sequence_bytes = program.sequence_bytes
        self.expanded_bytes = token_bytes(program, prefill) if prefill else 0
        self.unchecked = 0.0  # bytes that may be written before memory is looked at again
        self._kept = program.range_bytes
        self._cuttable = all(cache.kind.cuttable for cache in program.caches)
        self._idempotent = all(cache.kind.idempotent for cache in program.caches)

    def enter(self, sequence: Sequence) -> None:
        """Give a sequence a range, its prompt cache's if there is one. Raises InputError without address space."""
        if sequence.range is None:
            sequence.cached, sequence.expanded = self.cached_prefix(sequence), 0
            sequence.range = (sequence.cache and sequence.cache.range) or self.ranges.acquire()
        if not sequence.cached and not self._cuttable:
            sequence.range.clear()

    def cached_prefix(self, sequence: Sequence) -> int:
        """Tokens that the prompt cache saves a sequence. Its last one is always computed, for its logits."""
        if sequence.cache is None:
            return 0
        common = sequence.cache.common_prefix(sequence.tokens[: sequence.length])
        if self._cuttable:
            return min(common, sequence.length - 1)
        return common if len(sequence.cache.tokens) == common < sequence.length else 0

    def undo(self, sequence: Sequence) -> None:
        """Take back what a step that did not end may have written: all there is, unless it can be written again."""
        if not self._idempotent:
            sequence.cached = sequence.expanded = 0
            if sequence.range is not None:
                sequence.range.clear()

    def leave(self, sequence: Sequence) -> None:
        """Take the range of an ended sequence back, or leave it and what it holds to its prompt cache."""
        cache = sequence.cache
        if sequence.range is not None and cache is not None:
            self.forget_expansion(sequence)
            cache.range, cache.tokens = sequence.range, sequence.tokens[: sequence.cached].copy()
        elif sequence.range is not None:
            self.ranges.release(sequence.range)
        sequence.range = None
        if cache is not None:
            cache.busy = False

    def give_way(self, sequence: Sequence) -> None:
        """Take the range of a sequence back that is to be computed again, and that of its prompt cache with it."""
        if sequence.cache is not None:
            sequence.cache.forget()
        held, sequence.range, sequence.cached, sequence.expanded = sequence.range, None, 0, 0
        if held is not None:
            self.ranges.release(held)

    def clear(self, cache: PromptCache) -> None:
        """Take the range of a prompt cache back."""
        if cache.range is not None:
            self.ranges.release(cache.range)
        cache.forget()

    def forget_expansion(self, sequence: Sequence) -> None:
        """Take back what serves a prompt alone."""
        if self.expanded_bytes and sequence.range is not None:
            sequence.range.clear(self._kept)
            sequence.expanded = 0

    def step_bytes(self, shares: Iterable[Share], expanded: bool) -> float:
        """Bytes of keys and values that a step writes for the first time."""
        needed = 0.0
        for share in shares:
            needed += self._bytes(share.begin, share.end)
            needed += (share.end - share.sequence.expanded) * self.expanded_bytes if expanded else 0
        return needed

    def prompt_bytes(self, sequence: Sequence, done: int) -> float:
        """Bytes of keys and values that the rest of a prompt, or of what is known of a sequence, will write."""
        left = sequence.length - done
        expanded = sequence.length * self.expanded_bytes if left >= EXPANDED_ROWS else 0
        return self._bytes(done, sequence.length) + expanded

    def _bytes(self, begin: int, end: int) -> float:
        return (end - begin) * self.position_bytes + (0 if begin else self.sequence_bytes)

    def fits(self, needed: float) -> bool:
        """Whether so many more bytes of keys and values can be written."""
        if needed > self.unchecked:
            if memory.available() < needed + MARGIN:
                return False
            self.unchecked = needed + MARGIN
        return True

    def admits(self, sequence: Sequence) -> bool:
        """Whether the prompt of a sequence that waits fits."""
        return self.fits(self.prompt_bytes(sequence, self.cached_prefix(sequence)))

    def write(self, needed: float) -> None:
        """Count bytes that fit and are being written."""
        self.unchecked -= needed

    def shortage(self, sequence: Sequence) -> InputError:
        """What to say of a sequence that does not fit, though it is alone."""
        done, there = max(sequence.cached, self.cached_prefix(sequence)), memory.available()
        needed = self.prompt_bytes(sequence, done)
        return InputError(
            f"the keys and values of {sequence.length - done} tokens after {done} need {memory.readable(needed)} "
            f"of memory and {memory.readable(MARGIN)} must stay free, {memory.readable(there)} are left"
        )

    def check_logits(self, tokens: int, vocab: int) -> None:
        """Raise InputError unless so many rows of logits fit, and the keys and values that they take."""
        needed = tokens * (4 * vocab + self.expanded_bytes) + self._bytes(0, tokens)
        if needed > MARGIN and needed > (there := memory.available()):
            raise InputError(
                f"the logits of {tokens} tokens need {memory.readable(needed)}, {memory.readable(there)} are left"
            )
