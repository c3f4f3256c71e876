"""Plans the arena: one offset for each buffer of a row block's section.

Greedy by size, lowest fit (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020), with
lifetimes from the task graph: two buffers share bytes only if the graph orders every access of one before every write
of the other, whatever the threads do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ALIGNMENT = 64


@dataclass(eq=False)
class Buffer:
    """Bytes of a section. `writers` and `readers` are operator numbers; `offset` is set by `plan`."""

    name: str
    bytes: int
    writers: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    offset: int = -1

    @property
    def end(self) -> int:
        """First byte after the buffer."""
        return self.offset + self.bytes


@dataclass(frozen=True)
class Plan:
    """Bytes of a section, and the least that any plan could need."""

    bytes: int
    lower_bound: int


def descendants(after: Sequence[Sequence[int]]) -> list[int]:
    """Return for each operator a bit mask of those ordered after it. `after[i]` lists what i waits for."""
    masks = [0] * len(after)
    for operator in reversed(range(len(after))):
        for earlier in after[operator]:
            assert earlier < operator, "operators must be in topological order"
            masks[earlier] |= masks[operator] | 1 << operator
    return masks


def plan(buffers: Sequence[Buffer], after: Sequence[Sequence[int]]) -> Plan:
    """Set every buffer's offset, so that buffers that may be live at once are disjoint."""
    masks = descendants(after)
    all_after = [_common(buffer, masks) for buffer in buffers]
    writes = [sum(1 << writer for writer in set(buffer.writers)) for buffer in buffers]
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].bytes, i)):
        offset = 0
        for other in placed:
            if writes[other] & all_after[index] == writes[other] or writes[index] & all_after[other] == writes[index]:
                continue
            if buffers[other].offset >= offset + buffers[index].bytes:
                break
            offset = max(offset, -(-buffers[other].end // ALIGNMENT) * ALIGNMENT)
        buffers[index].offset = offset
        placed.append(index)
        placed.sort(key=lambda i: buffers[i].offset)
    return Plan(max((buffer.end for buffer in buffers), default=0), lower_bound(buffers, masks))


def lower_bound(buffers: Sequence[Buffer], masks: Sequence[int]) -> int:
    """Most bytes that must be held at one operator: those it accesses and those written before and read after it."""
    held = [0] * len(masks)
    before = _ancestors(masks)
    for buffer in buffers:
        started = union(masks, buffer.writers)
        live = (started & union(before, buffer.readers)) | sum(1 << writer for writer in set(buffer.writers))
        while live:
            operator = live.bit_length() - 1
            held[operator] += buffer.bytes
            live ^= 1 << operator
    return max(held, default=0)


def _common(buffer: Buffer, masks: Sequence[int]) -> int:
    common = -1
    for access in buffer.writers + buffer.readers:
        common &= masks[access]
    return common


def union(masks: Sequence[int], operators: Iterable[int]) -> int:
    """The operators and all that their masks hold, as a bit mask."""
    mask = 0
    for operator in operators:
        mask |= masks[operator] | 1 << operator
    return mask


def _ancestors(masks: Sequence[int]) -> list[int]:
    before = [0] * len(masks)
    for operator, mask in enumerate(masks):
        for later in range(operator + 1, len(masks)):
            if mask >> later & 1:
                before[later] |= 1 << operator
    return before
