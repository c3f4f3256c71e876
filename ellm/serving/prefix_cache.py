"""Keys and values that outlive the step, the sequence and the request that computed them: shared blocks of prefixes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from ellm.kernels.contract import SPLIT, TILE_K
from ellm.scheduler.program import Program
from ellm.serving.eviction import in_turn
from ellm.serving.prefixes import Block, Prefixes, as_key, common_prefix, likest
from ellm.serving.ranges import Range, RangePool
from ellm.serving.sequence import Sequence
from ellm.serving.session_files import Entry
from ellm.serving.sessions import Sessions
from ellm.system import memory

LEAST = 16  # tokens behind the whole blocks of a sequence that are kept
WORTH_WAITING = 64  # tokens that another sequence is about to compute
SPARE = 64  # this part of what may be held is evicted at once


@dataclass(frozen=True)
class CacheStatistics:
    """What the prefix cache did: tokens of prompts it was asked for and had, blocks evicted, bytes that it holds."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    evicted_blocks: int = 0
    held_bytes: int = 0


@dataclass(frozen=True)
class Hit:
    """What is cached of a sequence: `path` is read in place, of `partial` the rest of `tokens` is copied.

    If `adopted`, the sequence goes on in the range of `partial` instead, behind all of its tokens.
    """

    tokens: int = 0
    path: list[Block] = field(default_factory=list)
    partial: Block | None = None
    adopted: bool = False
    common: int = 0  # tokens that are the same as those of blocks, whether these help or not

    @property
    def kept(self) -> int:
        """Tokens that take no more memory."""
        return self.tokens if self.adopted else len(self.path) * SPLIT

    @property
    def in_place(self) -> Hit:
        """What of it is not copied."""
        return self if self.adopted else Hit(self.kept, self.path)


class PrefixCache:
    """What sequences have computed, for others that begin with the same tokens and have the same salt.

    Whole blocks are read where they lie, in the range of whoever computed them, by any number of sequences: each names
    them in its table of blocks (`Sequence.blocks`). They are in use as long as they are on the path to the `tip` of a
    sequence, so nothing is counted that could be counted wrong. Others are evicted when memory is needed, or more than
    `limit` bytes are held (0: nothing is cached). Where caches cannot be cut, a sequence that goes on where another
    ended takes its range over. Where several sequences may share blocks, those of ended ones are kept by `sessions`.
    """

    def __init__(self, program: Program, ranges: RangePool, limit: int, sessions: Sessions | None = None):
        self.limit, self._ranges = limit, ranges
        self._guard = threading.Lock()  # held while blocks go, and while one is copied to be written to a file
        self.cuttable = all(cache.kind.cuttable for cache in program.caches)
        self._caches = [cache for cache in program.caches if cache.kind.position_bytes and cache.kind.kept]
        self._context_blocks, self._offsets = program.context_blocks, program.block_offsets
        self._sequence_bytes = program.sequence_bytes
        self._position_bytes = sum(cache.bytes for cache in self._caches) / max(program.context, 1)
        self._row_cost = max(1, sum(operator.flops for operator in program.operators))
        self._key_cost = sum(operator.flops_per_key for operator in program.operators)
        windowed = [cache for cache in self._caches if cache.kind.window]
        self._window = max((cache.kind.window for cache in windowed), default=0)
        self._window_begin = min((cache.offset for cache in windowed), default=0)
        self._window_end = max((cache.offset + cache.bytes // self._context_blocks for cache in windowed), default=0)
        self._prefixes = Prefixes()
        self._inside: dict[int, Sequence] = {}  # who has a range, by id
        self._now = self._entered = self._queried = self._hit = self._evicted = 0
        self._sessions = sessions if self.shares else None
        if self._sessions is not None:
            self._sessions.start(self._content)

    @property
    def shares(self) -> bool:
        """Whether several sequences may read one block."""
        return self.cuttable and self.limit > 0

    @property
    def statistics(self) -> CacheStatistics:
        """What it did so far. Any thread may ask."""
        held = sum(map(self._bytes, list(self._prefixes.blocks)))
        return CacheStatistics(self._queried, self._hit, self._evicted, int(held))

    def find(self, sequence: Sequence) -> Hit:
        """What of a sequence is cached. Tokens whose logits are wanted are always computed, such as its last one."""
        tokens = sequence.tokens[: sequence.reusable]
        if not self.limit:
            return Hit()
        self._now += 1
        if not self.cuttable:
            held = self._prefixes.whole(sequence.salt, tokens)
            if held is None or self._owned(held.range):
                return Hit()
            held.used = self._now
            return Hit(held.size, [], held, adopted=True)
        path, partial, common = self._prefixes.walk(sequence.salt, tokens)
        hit = replace(self._seen_through_windows(path, partial, common), common=len(path) * SPLIT + common)
        for block in [*hit.path, *([hit.partial] if hit.partial else [])]:
            block.used = self._now
        return hit

    def _seen_through_windows(self, path: list[Block], partial: Block | None, common: int) -> Hit:
        """The longest prefix of these that has what its next row can see."""
        hits = []
        if partial is not None:
            whole = common == partial.size < SPLIT and not self._owned(partial.range)
            copied = common // TILE_K * TILE_K  # whole tiles, so that nothing of another's tokens comes along
            if whole:
                hits = [Hit(len(path) * SPLIT + common, path, partial, adopted=True)]
            elif copied:
                hits = [Hit(len(path) * SPLIT + copied, path, partial)]
        hits += [Hit(count * SPLIT, path[:count]) for count in range(len(path), 0, -1)]
        for hit in hits:
            visible = hit.path[self._passed(hit.tokens) :] + ([hit.partial] if hit.partial else [])
            if all(block.windows for block in visible):
                for block in visible:
                    block.window_used = self._now
                return hit
        return Hit()

    def _passed(self, tokens: int) -> int:
        """Whole blocks that no row from position `tokens` on can see through a window."""
        return max(0, tokens - self._window + 1) // SPLIT

    def enter(self, sequence: Sequence, hit: Hit, place: Range) -> None:
        """Let a sequence go on behind its hit, in a range that is the hit's own if it is adopted."""
        self._inside[id(sequence)] = sequence
        self._entered += 1
        sequence.entered = self._entered
        sequence.tip, sequence.tail = (hit.path[-1] if hit.path else None), (hit.partial if hit.adopted else None)
        sequence.blocks = np.uint64(place.address) + self._offsets
        for block in hit.path:
            sequence.blocks[block.number] = self._address(block)
        if hit.partial is not None and not hit.adopted:
            self._copy(hit.partial, place, hit.tokens - hit.kept)
        if sequence.first_hit < 0:
            self._queried, self._hit = self._queried + sequence.length, self._hit + hit.tokens
            sequence.first_hit = hit.tokens
        sequence.cached, sequence.range = hit.tokens, place

    def computed(self, sequence: Sequence, prompt_ended: bool) -> None:
        """Let others find what a step added to a sequence."""
        if not self.shares:
            return
        begun = self._end(sequence.tip)
        while self._end(sequence.tip) + SPLIT <= sequence.cached:
            self._keep_whole(sequence)
        if prompt_ended:
            self._keep_tail(sequence)
        if self._end(sequence.tip) > begun:
            self._trim()

    def leave(self, sequence: Sequence) -> None:
        """Take the range of a sequence back; what it computed stays for others."""
        place = sequence.range
        if place is not None and self.limit:
            if self.cuttable:
                self._keep_tail(sequence)
                self._keep_file(sequence)
            else:
                self._keep_all(sequence)
        self._let_go(sequence)
        if self.limit:
            self._trim()

    def abandon(self, sequence: Sequence) -> None:
        """The same, but what lies behind the whole blocks of its range must not be used again."""
        if sequence.range is not None:
            stale = [sequence.tail] if self.cuttable else list(sequence.range.blocks)
            for block in filter(None, stale):
                self._remove(block)
            self._let_go(sequence)

    def is_coming(self, sequence: Sequence) -> bool:
        """Whether another sequence is about to compute what this one begins with."""
        if not self.shares or sequence.reusable < WORTH_WAITING:
            return False
        tokens, found = sequence.tokens[: sequence.reusable], -1
        for one in self._inside.values():
            if one.left > 1 and one.salt == sequence.salt and not one.done:
                common = sequence.compared.get(one.entered)
                if common is None:
                    common = sequence.compared[one.entered] = common_prefix(one.tokens[: one.length], tokens)
                shared_at = min(-(-common // SPLIT) * SPLIT, one.length - 1)
                if common >= WORTH_WAITING and one.cached < shared_at:
                    found = self.find(sequence).tokens if found < 0 else found
                    if common - found >= WORTH_WAITING:
                        return True
        return False

    def evict(self, wanted: float, keep: Hit | None = None) -> float:
        """Give back so many bytes soon, or what there is that nobody uses; returns how many. `keep` stays."""
        used, seen = self._in_use(keep)
        freed = 0.0
        for block, whole in in_turn(self._prefixes.blocks, used, seen, self._worth):
            freed += self._drop(block) if whole else self._drop_windows(block)
            if freed >= wanted:
                break
        return freed

    def _worth(self, block: Block, used: int) -> float:
        """The time that a block takes to compute, by the age of its last use."""
        return (self._row_cost + self._key_cost * max(block.number, 0) * SPLIT) / (self._now + 1 - used)

    def _in_use(self, keep: Hit | None = None) -> tuple[set[Block], set[Block]]:
        """Blocks that sequences, or who may be let in next, read; and those whose layers with windows they read."""
        users = [(one.tip, one.tail, one.cached) for one in self._inside.values()]
        if keep is not None:
            users.append((keep.path[-1] if keep.path else None, keep.partial, keep.tokens))
        used: set[Block] = set()
        seen: set[Block] = set()
        for tip, tail, cached in users:
            passed = self._passed(cached) if self._window else 0
            block = tip
            while block is not None and block.parent is not None and (block not in used or block.number >= passed):
                used.add(block)
                if block.number >= passed:
                    seen.add(block)
                block = block.parent
            if tail is not None:
                used.add(tail)
                seen.add(tail)
        return used, seen if self._window else self._prefixes.blocks

    def _trim(self) -> None:
        """Hold no more than the limit beside what sequences use."""
        if len(self._prefixes.blocks) * (self._position_bytes * SPLIT + self._sequence_bytes) <= self.limit:
            return
        used, seen = self._in_use()
        idle = sum(self._bytes(block) for block in self._prefixes.blocks if block not in used)
        idle += sum(self._window_end - self._window_begin for block in used - seen if block.windows)
        if idle > self.limit:
            self.evict(idle - self.limit + self.limit / SPARE)

    def _keep_whole(self, sequence: Sequence) -> None:
        """Let others find the next whole block of a sequence. If they could already, it reads theirs from now on."""
        begin, place = self._end(sequence.tip), sequence.range
        assert place is not None
        number = begin // SPLIT
        parent = sequence.tip or self._prefixes.root(sequence.salt)
        block = self._prefixes.add(parent, sequence.tokens[begin : begin + SPLIT], place, number)
        block.used = block.window_used = self._now
        if sequence.tail is not None:
            self._remove(sequence.tail)
            sequence.tail = None
        if block.range is not place:
            if not block.windows:
                self._restore_windows(block, place)
            sequence.blocks[number] = self._address(block)
            self._ranges.give_back_block(place, number)
        sequence.tip = block

    def _keep_tail(self, sequence: Sequence) -> None:
        """Let others find what lies behind the whole blocks of a sequence, unless they do already."""
        begin, end, place = self._end(sequence.tip), sequence.cached, sequence.range
        assert place is not None
        if end - begin < LEAST:
            return
        tokens = sequence.tokens[begin:end]
        if sequence.tail is not None and sequence.tail.size < len(tokens):
            self._remove(sequence.tail)
            sequence.tail = None
        parent = sequence.tip or self._prefixes.root(sequence.salt)
        block, common = likest(parent, as_key(tokens))
        if block is None or common < len(tokens) or not block.windows:
            block = sequence.tail = self._prefixes.add(parent, tokens, place, begin // SPLIT)
        block.used = block.window_used = self._now

    def _keep_all(self, sequence: Sequence) -> None:
        """Let a sequence that goes on where this one ended have its range."""
        place = sequence.range
        assert place is not None
        for before in list(place.blocks):
            self._remove(before)
        if sequence.cached >= LEAST:
            root = self._prefixes.root(sequence.salt)
            self._prefixes.add(root, sequence.tokens[: sequence.cached], place, 0).used = self._now

    def _let_go(self, sequence: Sequence) -> None:
        place = sequence.range
        self._inside.pop(id(sequence), None)
        if place is not None and not place.blocks:
            self._ranges.release(place)
        elif place is not None and sequence.tail is None and self.cuttable:  # with one, another may go on there at once
            behind = max(block.number for block in place.blocks) + 1
            first = self._ranges.first_block + behind * self._ranges.block_bytes
            self._ranges.give_back(place, first, place.size)
        sequence.tip = sequence.tail = sequence.range = None
        sequence.cached = 0

    def _remove(self, block: Block) -> None:
        with self._guard:
            self._prefixes.remove(block)

    def _drop(self, block: Block) -> float:
        place, size = block.range, self._bytes(block)
        assert place is not None
        self._remove(block)
        if place.blocks or self._owned(place):
            self._ranges.give_back_block(place, block.number)
        else:
            self._ranges.release(place)
        self._evicted += 1
        return size

    def _drop_windows(self, block: Block) -> float:
        assert block.range is not None
        unit = memory.HUGE if self._ranges.block_bytes >= memory.HUGE else 1  # a part of one would not be free
        address = self._address(block)
        first, last = (address + self._window_begin + unit - 1) // unit, (address + self._window_end) // unit
        if last <= first:
            return 0.0
        begin, end = first * unit - block.range.address, last * unit - block.range.address
        with self._guard:
            block.windows = False
            self._ranges.give_back(block.range, begin, end)
        return end - begin

    def _restore_windows(self, block: Block, place: Range) -> None:
        """Copy what was given back of a block from one with the same tokens in another range."""
        assert block.range is not None
        self._ranges.settle()
        offset = int(self._offsets[block.number])
        part = slice(offset + self._window_begin, offset + self._window_end)
        block.range.array[part] = place.array[part]
        block.windows = True

    def _copy(self, block: Block, place: Range, positions: int) -> None:
        """Copy the first positions of a block to the block of the same number in another range."""
        assert block.range is not None
        here, there = (self._pieces(one, block.number, positions) for one in (block.range, place))
        for target, source in zip(there, here, strict=True):
            target[:] = source

    def _pieces(self, place: Range, number: int, positions: int) -> list[np.ndarray]:
        """The bytes of whole tiles that hold the first positions of a block, each uint8 [heads, n]."""
        found, groups = [], -(-positions // TILE_K)
        for cache in self._caches:
            begin, size = int(self._offsets[number]) + cache.offset, cache.bytes // self._context_blocks
            heads = place.array[begin : begin + size].reshape(cache.heads, -1)
            keys, values = heads[:, : cache.key_bytes], heads[:, cache.key_bytes :]
            found += [one[:, : one.shape[1] // (SPLIT // TILE_K) * groups] for one in (keys, values) if one.size]
        return found

    def _content(self, block: Block) -> bytes | None:
        """The bytes of a block for its file, unless it is gone. For the thread that writes it."""
        with self._guard:
            if block not in self._prefixes.blocks or block.range is None:
                return None
            return b"".join(map(np.ndarray.tobytes, self._pieces(block.range, block.number, block.size)))

    def _keep_file(self, sequence: Sequence) -> None:
        if self._sessions is not None:
            blocks = [] if sequence.tip is None else sequence.tip.path()
            blocks += [] if sequence.tail is None else [sequence.tail]
            self._sessions.keep(sequence.salt, sequence.tokens[: sequence.cached], blocks)

    @property
    def has_files(self) -> bool:
        """Whether there may be more in files."""
        return self._sessions is not None

    def on_disk(self, sequence: Sequence, hit: Hit) -> Entry | None:
        """The file with what follows the whole blocks of a hit, if more of it is the same than of any block."""
        assert self._sessions is not None
        known = len(hit.path) * SPLIT
        tokens = sequence.tokens[: sequence.reusable]
        return self._sessions.next(sequence.salt, tokens, known, max(hit.common, known + LEAST))

    def goes_on_in(self, hit: Hit) -> Range | None:
        """The range in which what follows a hit can be restored: that of its last block, if nothing follows there."""
        place = hit.path[-1].range if hit.path else None
        if place is None or self._owned(place) or max(one.number for one in place.blocks) >= len(hit.path):
            return None
        self._ranges.settle()
        return place

    def restore(self, sequence: Sequence, hit: Hit, entry: Entry, place: Range) -> bool:
        """Read a block from its file to its place in a range, for anybody; whether it was whole."""
        assert self._sessions is not None
        begin = entry.number * SPLIT
        whole = self._sessions.load(entry, self._pieces(place, entry.number, len(entry.tokens) - begin))
        if whole:
            parent = hit.path[-1] if hit.path else self._prefixes.root(sequence.salt)
            block = self._prefixes.add(parent, entry.tokens[begin:], place, entry.number)
            block.used, block.window_used, block.windows = self._now, self._now, entry.windows
        if not place.blocks:
            self._ranges.release(place)
        return whole

    @property
    def written(self) -> bool:
        """Whether what is to be in files is there."""
        return self._sessions is None or self._sessions.written

    def close(self) -> None:
        """Finish what is being written."""
        if self._sessions is not None:
            self._sessions.close()

    def _owned(self, place: Range | None) -> bool:
        """Whether a sequence is writing to a range."""
        return any(one.range is place for one in self._inside.values())

    def _address(self, block: Block) -> int:
        assert block.range is not None
        return block.range.address + int(self._offsets[block.number])

    def _bytes(self, block: Block) -> float:
        if not self.cuttable:
            return block.size * self._position_bytes + self._sequence_bytes
        gone = 0 if block.windows else self._window_end - self._window_begin
        return block.size * self._position_bytes - gone

    @staticmethod
    def _end(tip: Block | None) -> int:
        return 0 if tip is None else (tip.number + 1) * SPLIT
