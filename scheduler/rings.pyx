"""The memory into which workers record what they do."""

import numpy as np

from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from ellm.scheduler.zeroed_pages cimport Pages
from ellm.scheduler.threads cimport clock_ns, clock_ticks
from ellm.scheduler.worker cimport Record, Ring

RECORD = np.dtype(
    [("begin", "i8"), ("end", "i8"), ("group", "i4"), ("index", "i4"), ("step", "u4"), ("what", "i4")]
)
assert RECORD.itemsize == sizeof(Record)


cdef class Rings:
    """A ring of `capacity` records for each of so many workers."""

    def __init__(self, int workers, int64_t capacity):
        cdef int i
        self.workers = workers
        self.pages = Pages(workers * (sizeof(Ring) + capacity * sizeof(Record)), "trace")
        self.rings = <Ring *>self.pages.base
        for i in range(workers):
            self.rings[i].capacity = capacity
            self.rings[i].records = <Record *>(self.rings + workers) + i * capacity

    def touch(self, int worker):
        """Have the pages of a worker's ring, in memory near to the calling thread, before a step runs."""
        with nogil:
            memset(self.rings[worker].records, 0, self.rings[worker].capacity * sizeof(Record))

    cdef Ring *of(self, int worker) noexcept nogil:
        return &self.rings[worker]

    def records(self, int worker):
        """A copy of what a worker has recorded: RECORD [n], in order of their ends. Not while a step runs."""
        cdef Ring *ring = &self.rings[worker]
        found = np.empty(ring.count, RECORD)
        if ring.count:
            found.view(np.uint8)[:] = <unsigned char[: ring.count * sizeof(Record)]><unsigned char *>ring.records
        return found

    @property
    def dropped(self):
        """Records for which there was no room."""
        return sum(self.rings[i].dropped for i in range(self.workers))

    def clear(self):
        """Make room by forgetting every record. Not while a step runs."""
        for i in range(self.workers):
            self.rings[i].count = self.rings[i].dropped = 0


def clocks():
    """(ticks, nanoseconds) of one moment: CLOCK_MONOTONIC, which time.perf_counter_ns reads too."""
    cdef int64_t best = -1, before, ns, after, ticks = 0, moment = 0
    for _ in range(5):  # the one that was interrupted least
        before = clock_ticks()
        ns = clock_ns()
        after = clock_ticks()
        if best < 0 or after - before < best:
            best, ticks, moment = after - before, before + (after - before) // 2, ns
    return ticks, moment
