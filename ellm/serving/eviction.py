"""Which cached blocks go first where memory is needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Set
from heapq import heapify, heappop, heappush

from ellm.serving.prefixes import Block


def in_turn(
    blocks: Set[Block], used: Set[Block], seen: Set[Block], worth: Callable[[Block, int], float]
) -> Iterator[tuple[Block, bool]]:
    """Blocks that may go, the one of least worth first, and whether all of it goes or only what lies behind windows.

    `blocks` are all there are, and those that go are taken out of it meanwhile. A block goes before its parent. Of the
    `used` none goes, but what lies behind the windows of all that use it: of all but the `seen`. `worth` is that of a
    block which was last used at a time.
    """
    number = itertools.count()

    def entry(block: Block, whole: bool) -> tuple[float, int, Block, bool]:
        return worth(block, block.used if whole else block.window_used), next(number), block, whole

    heap = []
    for block in blocks:
        if block not in used and not block.children:
            heap.append(entry(block, True))
        elif block.windows and block not in seen:
            heap.append(entry(block, False))
    heapify(heap)
    while heap:
        *_, block, whole = heappop(heap)
        if block not in blocks or not (whole or block.windows):
            continue
        yield block, whole
        parent = block.parent
        if whole and parent is not None and parent in blocks and parent not in used and not parent.children:
            heappush(heap, entry(parent, True))
