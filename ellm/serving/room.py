"""Memory for keys and values: the ranges of sequences, and whether what is about to be written still fits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ellm.kernels.contract import SPLIT
from ellm.scheduler.contents import CacheKind
from ellm.scheduler.program import Program
from ellm.serving.batcher import Share
from ellm.serving.prefix_cache import CacheStatistics, Hit, PrefixCache
from ellm.serving.ranges import Range, RangePool
from ellm.serving.sequence import Sequence
from ellm.serving.sessions import Sessions
from ellm.system import memory
from ellm.system.errors import InputError

MARGIN = 32 << 20  # bytes of keys and values between looks at the memory that is left, and what is left over at least
MOST_RANGES = 1024  # each takes a few of the mappings that a process may have (65,530)
DONE = 1 << 31  # beyond all blocks
UNBOUNDED = 1 << 62  # bytes
SMALL_BLOCKS = 4  # blocks behind which a block takes huge pages though nobody knows that it will be filled


class Room:
    """Ranges for the sequences of a model's programs: the caches of all, behind them what serves a prompt alone.

    `nodes` are the NUMA nodes of the workers. What sequences computed stays cached, up to `cache_bytes` beside what
    sequences use (0: nothing is cached), as long as there is memory for it; `sessions` keeps it in files.
    """

    def __init__(
        self,
        programs: Iterable[Program],
        nodes: tuple[int, ...] = (),
        cache_bytes: int = UNBOUNDED,
        sessions: Sessions | None = None,
    ):
        self._programs = [*programs]
        program = self._programs[0]
        size = max(one.range_bytes for one in self._programs)
        self.ranges = RangePool(size, program.first_block, program.block_bytes, nodes)
        self._huge = program.block_bytes >= memory.HUGE
        self.position_bytes = sum(one.bytes - one.kind.sequence_bytes for one in program.caches) / program.context
        self.sequence_bytes = program.sequence_bytes
        self.unchecked = 0.0  # bytes that may be written before memory is looked at again
        self._kept, self._chunk = program.range_bytes, program.chunk
        self._growing = _growing(program)
        self._windowed = _windowed(program)
        self._cache = PrefixCache(program, self.ranges, cache_bytes, sessions)
        self.repeatable = self._cache.cuttable and all(cache.kind.idempotent for cache in program.caches)

    @property
    def statistics(self) -> CacheStatistics:
        """What the prefix cache did."""
        return self._cache.statistics

    def enter(self, sequence: Sequence) -> None:
        """Give a sequence a range and what is cached of it. Raises InputError without address space."""
        if sequence.range is not None:
            return
        hit = self._cache.find(sequence)
        sequence.prompt_only_bytes, sequence.left_behind = 0.0, {}
        sequence.first_whole = -(-hit.kept // SPLIT)
        taken = hit.partial.range if hit.partial and hit.adopted else None
        if taken is None:
            taken = self._acquire(hit)
            self._begin_blocks(sequence, taken, range(len(hit.path), -(-hit.tokens // SPLIT)))
        elif self.ranges.size > self._kept:
            self.ranges.settle()  # what its last prompt alone had may still be on its way
        self.write(self._held(sequence, hit.tokens) - self._held(sequence, hit.kept))
        self._cache.enter(sequence, hit, taken)

    def acquire_for(self, tokens: int) -> Range:
        """A range for so many tokens, all of which are known. Raises InputError without address space."""
        acquired = self._acquire()
        self.ranges.place(acquired, 0, -(-tokens // SPLIT))
        if self._huge:
            self.ranges.use_huge_pages(acquired, 0, tokens // SPLIT)
        return acquired

    def _acquire(self, keep: Hit | None = None) -> Range:
        while self.ranges.held >= MOST_RANGES and self._cache.evict(1, keep):
            pass
        try:
            return self.ranges.acquire()
        except InputError:
            if not self._cache.evict(math.inf, keep):
                raise
            self.ranges.settle()
            return self.ranges.acquire()

    def prefix_is_coming(self, sequence: Sequence) -> bool:
        """Whether it is worth to wait for more of what a sequence begins with: another is computing it, or it is read
        from files, a block each time."""
        return self._restores(sequence) or self._cache.is_coming(sequence)

    def _restores(self, sequence: Sequence) -> bool:
        """Read a block of a sequence from its file if there is one; none twice, as others may have had it evicted."""
        if not self._cache.has_files or sequence.restored == DONE:
            return False
        hit = self._cache.find(sequence)
        entry, needed = self._cache.on_disk(sequence, hit), SPLIT * self.position_bytes
        if entry is None or entry.number <= sequence.restored or not self.fits(needed, hit):
            sequence.restored = DONE
            return False
        sequence.restored = entry.number
        try:
            place = self._cache.goes_on_in(hit) or self._acquire(hit)
        except InputError:  # no address space; there may be some when it enters
            sequence.restored = DONE
            return False
        self.write(needed)
        self.ranges.place(place, entry.number, entry.number + 1)
        if self._huge and len(entry.tokens) % SPLIT == 0:
            self.ranges.use_huge_pages(place, entry.number, entry.number + 1)
        return self._cache.restore(sequence, hit, entry, place)

    def foresee(self, sequence: Sequence) -> None:
        """Note, once, how much of a sequence that waits is cached: the policy asks how much it has left."""
        if not sequence.foreseen:
            sequence.cached, sequence.foreseen = self._cache.find(sequence).tokens, True

    def computed(self, share: Share) -> None:
        """Let others find what a step computed, and give back what no row can see any more."""
        sequence = share.sequence
        if self._cache.shares:
            self._cache.computed(sequence, share.draws and share.begin < sequence.prompt_length)
        else:
            self._pass_windows(sequence)

    def undo(self, sequence: Sequence) -> None:
        """Take back what a step that did not end may have written: all there is, unless it can be written over."""
        if not self.repeatable:
            self._cache.abandon(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take the range of a sequence back that has ended, or is to be computed again; what it has stays cached."""
        self.forget_prompt_only(sequence)
        self._cache.leave(sequence)

    def close(self) -> None:
        """Finish what is being written to files, and unmap the ranges. No step may be running."""
        self._cache.close()
        self.ranges.close()

    @property
    def written(self) -> bool:
        """Whether what is to outlive the process is in files."""
        return self._cache.written

    def forget(self) -> None:
        """Give back all that is cached and that no sequence uses."""
        self._cache.evict(math.inf)
        self.ranges.settle()
        self.unchecked = 0.0

    def hold_prompt_only(self, share: Share, program: Program) -> None:
        """Count what a step of `program` wrote that serves a prompt alone."""
        sequence = share.sequence
        sequence.prompt_only_bytes = max(sequence.prompt_only_bytes, share.end * program.prompt_only_bytes)

    def forget_prompt_only(self, sequence: Sequence) -> None:
        """Take back what serves a prompt alone."""
        if sequence.range is not None and sequence.range.size > self._kept:
            self.ranges.give_back(sequence.range, self._kept, sequence.range.size)
            sequence.prompt_only_bytes = 0.0

    def held(self, sequences: Iterable[Sequence]) -> float:
        """Bytes of keys and values that sequences have."""
        return sum(self._held(one, one.cached) + one.prompt_only_bytes for one in sequences)

    def step_bytes(self, shares: Iterable[Share], program: Program) -> float:
        """Bytes of keys and values that a step of `program` writes for the first time."""
        needed = 0.0
        for share in shares:
            needed += self._held(share.sequence, share.end) - self._held(share.sequence, share.begin)
            needed += max(0.0, share.end * program.prompt_only_bytes - share.sequence.prompt_only_bytes)
        return needed

    def _held(self, sequence: Sequence, positions: int) -> float:
        """Bytes of the first positions of a sequence, and what lies with them in huge pages."""
        held = float(self.sequence_bytes if positions else 0)
        positions = self._with_pages(sequence, positions)
        for kind, position_bytes in self._growing:
            held += position_bytes * (positions if self._cache.shares else kind.kept_of(positions, self._chunk))
        return held

    def prompt_bytes(self, sequence: Sequence, done: int) -> float:
        """Bytes that the rest of a prompt, or of what is known of a sequence, will hold at once."""
        length = sequence.length
        positions = self._with_pages(sequence, length) - self._with_pages(sequence, done)
        new = 0.0 if done else float(self.sequence_bytes)
        for kind, position_bytes in self._growing:
            new += position_bytes * kind.kept_of(positions, self._chunk)
        return new + self._most_prompt_only_bytes(length, length - done)

    def _with_pages(self, sequence: Sequence, positions: int) -> int:
        """The positions that lie in the pages of the first ones of a sequence."""
        block, rest = divmod(positions, SPLIT)
        return positions + SPLIT - rest if rest and self._whole(sequence, block) else positions

    def _most_prompt_only_bytes(self, positions: int, rows: int) -> float:
        """Bytes that serve a prompt alone, of so many positions of which so many rows are run."""
        return max(positions * one.prompt_only_bytes for one in self._programs if one.least_rows <= rows)

    def _pass_windows(self, sequence: Sequence) -> None:
        """Give back what no row of a sequence can see any more."""
        assert sequence.range is not None
        for window, begin, end in self._windowed:
            passed = max(0, sequence.cached - window + 1) // SPLIT
            for block in range(sequence.left_behind.get(window, 0), passed):
                unit = memory.HUGE if self._whole(sequence, block) else 1  # a part of a huge page would not be free
                at = self.ranges.first_block + block * self.ranges.block_bytes
                first, last = (sequence.range.address + at + edge for edge in (begin, end))
                first, last = -(-first // unit) * unit, last // unit * unit
                if last > first:
                    base = sequence.range.address
                    self.ranges.give_back(sequence.range, first - base, last - base)
            sequence.left_behind[window] = passed

    def _whole(self, sequence: Sequence, block: int) -> bool:
        """Whether a block is on huge pages: its prompt fills it, or it is no more than a part of those before it."""
        filled = sequence.prompt_length >= (block + 1) * SPLIT
        return self._huge and block >= sequence.first_whole and (filled or block >= SMALL_BLOCKS)

    def prepare(self, shares: Iterable[Share]) -> None:
        """Decide of the blocks that a step begins where they lie, and on what pages."""
        for share in shares:
            assert share.sequence.range is not None
            begun = range(-(-share.begin // SPLIT), -(-share.end // SPLIT))
            self._begin_blocks(share.sequence, share.sequence.range, begun)

    def _begin_blocks(self, sequence: Sequence, place: Range, begun: range) -> None:
        self.ranges.place(place, begun.start, begun.stop)
        whole = [block for block in begun if self._whole(sequence, block)]
        if whole:
            self.ranges.use_huge_pages(place, whole[0], whole[-1] + 1)

    def fits(self, needed: float, keep: Hit | None = None) -> bool:
        """Whether so many more bytes of keys and values can be written, if only what `keep` names stays cached."""
        if needed > self.unchecked:
            if self._left(needed + MARGIN, keep) < needed + MARGIN:
                return False
            self.unchecked = needed + MARGIN
        return True

    def _left(self, wanted: float, keep: Hit | None = None) -> int:
        """The memory that is left, after evicting what it takes for so many bytes, or as much of it as can be."""
        left = memory.available()
        if left < wanted:
            self.ranges.settle()
            left = memory.available()
        while left < wanted and self._cache.evict(wanted - left + MARGIN, keep):
            self.ranges.settle()
            left = memory.available()
        return left

    def admits(self, sequence: Sequence) -> bool:
        """Whether the prompt of a sequence that waits fits."""
        hit = self._cache.find(sequence)
        sequence.first_whole = -(-hit.kept // SPLIT)
        needed = self.prompt_bytes(sequence, hit.kept)
        return self.fits(needed, hit) or self.fits(needed, hit.in_place)

    def write(self, needed: float) -> None:
        """Count bytes that fit and are being written."""
        self.unchecked -= needed

    def shortage(self, sequence: Sequence) -> InputError:
        """What to say of a sequence that does not fit, though it is alone."""
        done, there = sequence.cached or self._cache.find(sequence).tokens, memory.available()
        needed = self.prompt_bytes(sequence, done)
        return InputError(
            f"the keys and values of {sequence.length - done} tokens after {done} need {memory.readable(needed)} "
            f"of memory and {memory.readable(MARGIN)} must stay free, {memory.readable(there)} are left"
        )

    def check_logits(self, tokens: int, rows: int, vocab: int) -> None:
        """Raise InputError unless so many rows of logits fit, and the keys and values of so many tokens."""
        needed = rows * 4 * vocab + tokens * self.position_bytes + self.sequence_bytes
        needed += self._most_prompt_only_bytes(tokens, tokens)
        if needed > MARGIN and needed > (there := self._left(needed)):
            raise InputError(
                f"the logits of {tokens} tokens need {memory.readable(needed)}, {memory.readable(there)} are left"
            )


def _growing(program: Program) -> list[tuple[CacheKind, float]]:
    """The kinds of caches that grow, and the bytes that a position adds to all of each, with padding."""
    found: dict[CacheKind, float] = {}
    for cache in program.caches:
        if cache.kind.position_bytes:
            found[cache.kind] = found.get(cache.kind, 0.0) + cache.bytes / program.context
    return list(found.items())


def _windowed(program: Program) -> list[tuple[int, int, int]]:
    """Each window of a program and where in a block its caches begin and end."""
    found: dict[int, tuple[int, int]] = {}
    for cache in program.caches:
        if window := cache.kind.window:
            begin, end = found.get(window, (cache.offset, 0))
            last = cache.offset + cache.bytes // program.context_blocks
            found[window] = min(begin, cache.offset), max(end, last)
    return [(window, *edges) for window, edges in found.items()]
