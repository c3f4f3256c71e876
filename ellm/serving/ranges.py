"""KV ranges: one contiguous range of virtual memory per sequence, for its whole context.

Physical pages exist only where a sequence has written keys and values, so reserving for the longest context is free.
"""

from __future__ import annotations

import queue
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ellm.system.errors import InputError
from ellm.system.memory import Mapping

if TYPE_CHECKING:
    from ellm.serving.prefixes import Block


class Range(Mapping):
    """The range of one sequence at a time, and of blocks that others may read."""

    def __init__(self, size: int):
        super().__init__(size, "the KV range of a sequence")
        self.advise_huge(False)  # a short sequence would take one for a few bytes of each layer
        self.uses = self.released = 0  # times that it was acquired, and of which of them its pages were given back
        self.blocks: set[Block] = set()  # that lie in it and others may read


class RangePool:
    """Ranges of `size` bytes, reserved when first needed and used again after release.

    A thread of its own gives pages back: that takes half a second for 3 GB of small ones, and no step should wait.
    `first_block` and `block_bytes` say where the blocks of positions are, `nodes` to which NUMA nodes they are dealt.
    """

    def __init__(self, size: int, first_block: int = 0, block_bytes: int = 0, nodes: Sequence[int] = ()):
        self.size, self.first_block, self.block_bytes = size, first_block, block_bytes
        self._nodes = nodes
        self._free: list[Range] = []
        self._all: list[Range] = []
        self._held: dict[int, Range] = {}  # by address
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_run, args=(self._jobs,), name="ellm-release", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False  # steps may still wait for it then

    def acquire(self) -> Range:
        """A range that reads as zeros."""
        try:
            taken = self._free.pop() if self._free else self._reserve()
        except InputError:
            self.settle()
            if not self._free:
                raise
            taken = self._free.pop()
        taken.uses += 1
        self._held[taken.address] = taken
        return taken

    def use_huge_pages(self, of: Range, first: int, last: int) -> None:
        """Have the blocks [first, last) of a range, none of which is written yet, on huge pages."""
        if last > first:
            at = self.first_block
            of.advise_huge(True, at + first * self.block_bytes, at + last * self.block_bytes)

    def place(self, of: Range, first: int, last: int) -> None:
        """Deal the blocks [first, last) of a range, of which none is written yet, to the NUMA nodes, if many."""
        if len(self._nodes) > 1:
            for block in range(first, last):
                at = self.first_block + block * self.block_bytes
                of.prefer(self._nodes[block % len(self._nodes)], at, at + self.block_bytes)

    def give_back_block(self, of: Range, block: int) -> None:
        """The same for a block of a range."""
        begin = self.first_block + block * self.block_bytes
        self.give_back(of, begin, begin + self.block_bytes)

    def give_back(self, of: Range, begin: int, end: int) -> None:
        """Soon give back the pages of bytes [begin, end), which nobody reads, and nobody writes before `settle`."""
        self._jobs.put(partial(of.clear, begin, end))

    def release(self, released: Range) -> None:
        """Take a range back, and soon its pages with it. Nothing changes if that is done already."""
        if released.address in self._held:
            self._jobs.put(partial(self._clear, released, released.uses))
            self._held.pop(released.address, None)

    def settle(self) -> None:
        """Wait until everything that was given back is free."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait()

    @property
    def held(self) -> int:
        """Ranges that were acquired and not released."""
        return len(self._held)

    def close(self) -> None:
        """Unmap every range. No step may be running."""
        self._jobs.put(None)
        self._thread.join()
        for mapping in self._all:
            mapping.close()
        self._free, self._all, self._held = [], [], {}

    def _reserve(self) -> Range:
        self._all.append(Range(self.size))
        return self._all[-1]

    def _clear(self, released: Range, use: int) -> None:
        if released.released < use:  # else an interrupt had it released twice
            released.clear()
            released.advise_huge(False)
            released.released = use
            self._free.append(released)


def _run(jobs: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except OSError:  # those pages stay
            traceback.print_exc()
        del job  # it would keep the pool while this waits
