"""Memory for keys and values: the ranges of sequences, and whether what is about to be written still fits."""

from __future__ import annotations

from collections.abc import Iterable

from ellm.scheduler.program import Program
from ellm.serving.batcher import Share
from ellm.serving.ranges import PromptCache, RangePool
from ellm.serving.sequence import Sequence
from ellm.system import memory
from ellm.system.errors import InputError

MARGIN = 32 << 20  # bytes of keys and values between looks at the memory that is left, and what is left over at least


class Room:
    """Ranges for the sequences of a model's programs: the caches of all, behind them what serves a prompt alone."""

    def __init__(self, programs: Iterable[Program]):
        self._programs = [*programs]
        program = self._programs[0]
        self.ranges = RangePool(max(one.range_bytes for one in self._programs))
        self.position_bytes = sum(one.bytes - one.kind.sequence_bytes for one in program.caches) / program.context
        self.sequence_bytes = program.sequence_bytes
        self.unchecked = 0.0  # bytes that may be written before memory is looked at again
        self._kept = program.range_bytes
        self._cuttable = all(cache.kind.cuttable for cache in program.caches)
        self._repeatable = self._cuttable and all(cache.kind.idempotent for cache in program.caches)

    def enter(self, sequence: Sequence) -> None:
        """Give a sequence a range, its prompt cache's if there is one. Raises InputError without address space."""
        if sequence.range is None:
            sequence.cached, sequence.prompt_only_bytes = self.cached_prefix(sequence), 0.0
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
        """Take back what a step that did not end may have written: all there is, unless it can be written over."""
        if not self._repeatable:
            sequence.cached, sequence.prompt_only_bytes = 0, 0.0
            if sequence.range is not None:
                sequence.range.clear()

    def leave(self, sequence: Sequence) -> None:
        """Take the range of an ended sequence back, or leave it and what it holds to its prompt cache."""
        cache = sequence.cache
        if sequence.range is not None and cache is not None:
            self.forget_prompt_only(sequence)
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
        held, sequence.range, sequence.cached, sequence.prompt_only_bytes = sequence.range, None, 0, 0.0
        if held is not None:
            self.ranges.release(held)

    def clear(self, cache: PromptCache) -> None:
        """Take the range of a prompt cache back."""
        if cache.range is not None:
            self.ranges.release(cache.range)
        cache.forget()

    def hold_prompt_only(self, share: Share, program: Program) -> None:
        """Count what a step of `program` wrote that serves a prompt alone."""
        sequence = share.sequence
        sequence.prompt_only_bytes = max(sequence.prompt_only_bytes, _prompt_only_bytes(program, share.end))

    def forget_prompt_only(self, sequence: Sequence) -> None:
        """Take back what serves a prompt alone."""
        if sequence.range is not None and len(sequence.range.array) > self._kept:
            sequence.range.clear(self._kept)
            sequence.prompt_only_bytes = 0.0

    def step_bytes(self, shares: Iterable[Share], program: Program) -> float:
        """Bytes of keys and values that a step of `program` writes for the first time."""
        needed = 0.0
        for share in shares:
            needed += self._bytes(share.begin, share.end)
            needed += max(0.0, _prompt_only_bytes(program, share.end) - share.sequence.prompt_only_bytes)
        return needed

    def prompt_bytes(self, sequence: Sequence, done: int) -> float:
        """Bytes of keys and values that the rest of a prompt, or of what is known of a sequence, will write."""
        length = sequence.length
        return self._bytes(done, length) + self._most_prompt_only_bytes(length, length - done)

    def _most_prompt_only_bytes(self, positions: int, rows: int) -> float:
        """Bytes that serve a prompt alone, of so many positions of which so many rows are run."""
        return max(_prompt_only_bytes(one, positions) for one in self._programs if one.least_rows <= rows)

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

    def check_logits(self, tokens: int, rows: int, vocab: int) -> None:
        """Raise InputError unless so many rows of logits fit, and the keys and values of so many tokens."""
        needed = rows * 4 * vocab + self._bytes(0, tokens) + self._most_prompt_only_bytes(tokens, tokens)
        if needed > MARGIN and needed > (there := memory.available()):
            raise InputError(
                f"the logits of {tokens} tokens need {memory.readable(needed)}, {memory.readable(there)} are left"
            )


def _prompt_only_bytes(program: Program, positions: int) -> float:
    """Bytes of a range that serve so many positions of a prompt alone."""
    return positions * sum(cache.bytes for cache in program.caches if not cache.kind.kept) / program.context
