"""Plans the arena: one offset for each buffer of a row block's section, and of what all row blocks share.

Greedy by size, lowest fit (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020), with
lifetimes from the task graph: two buffers share bytes only if the graph orders every access of one before every write
of the other, whatever the threads do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ellm.scheduler.contents import PlannedBuffer

ALIGNMENT = 64


@dataclass(eq=False)
class Buffer:
    """Bytes of the arena. `writers` and `readers` are operator numbers; `offset` is set by `plan`."""

    name: str
    bytes: int
    writers: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    offset: int = -1

    @property
    def end(self) -> int:
        """First byte after the buffer."""
        return self.offset + self.bytes

    def planned(self) -> PlannedBuffer:
        """The same as plain data."""
        accesses = self.writers + self.readers
        return PlannedBuffer(self.name, self.offset, self.bytes, min(accesses), max(accesses))


@dataclass(frozen=True)
class Plan:
    """Bytes of a section or of what is shared, and the least that any plan could need."""

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


def across(masks: Sequence[int], fences: Iterable[int]) -> list[int]:
    """Bit masks of what runs after every row block's and every expert's part of an operator, from `descendants`.

    Row blocks run on their own, and so do experts, so an operator after another in the graph may yet run before some
    part of it. A fence is an operator of which all parts are done before anything after it starts.
    """
    found = [0] * len(masks)
    for fence in fences:
        for operator in range(fence + 1):
            if operator == fence or masks[operator] >> fence & 1:
                found[operator] |= masks[fence]
    return found


def plan(buffers: Sequence[Buffer], after: Sequence[Sequence[int]], fences: Sequence[int] | None = None) -> Plan:
    """Set every buffer's offset, so that buffers that may be live at once are disjoint.

    With `fences` the buffers are those that all row blocks share, see `across`.
    """
    masks = descendants(after)
    ordered = masks if fences is None else across(masks, fences)
    all_after = [_common(buffer, ordered) for buffer in buffers]
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
