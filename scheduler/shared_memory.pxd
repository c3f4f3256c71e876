"""Memory that its readers share equally, each up to the rate of a core, and heaps of who is next."""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t

cdef struct Entry:
    double time
    int32_t worker
    int32_t kind


cdef struct Heap:
    Entry *entries
    int32_t size


cdef struct Domain:
    Heap readers  # their `time` is what `served` will be when they have read all
    double rate  # of the memory, bytes per nanosecond
    double core_rate  # that one reader can reach
    double served  # what each reader has got that has been there all the time
    double now


cdef inline void push(Heap *heap, double time, int32_t worker, int32_t kind) noexcept nogil:
    cdef int32_t at = heap.size, parent
    heap.size += 1
    while at and heap.entries[(at - 1) >> 1].time > time:
        parent = (at - 1) >> 1
        heap.entries[at] = heap.entries[parent]
        at = parent
    heap.entries[at] = Entry(time, worker, kind)


cdef inline Entry pop(Heap *heap) noexcept nogil:
    """Take out the earliest entry."""
    cdef Entry first = heap.entries[0], last
    cdef int32_t at = 0, child
    heap.size -= 1
    last = heap.entries[heap.size]
    while True:
        child = 2 * at + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and heap.entries[child + 1].time < heap.entries[child].time:
            child += 1
        if heap.entries[child].time >= last.time:
            break
        heap.entries[at] = heap.entries[child]
        at = child
    heap.entries[at] = last
    return first


cdef inline void take_out(Heap *heap, int32_t at) noexcept nogil:
    """Take out any entry."""
    cdef Entry entry = heap.entries[at]
    while at:
        heap.entries[at] = heap.entries[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap.entries[0] = entry
    pop(heap)


cdef inline double share(const Domain *domain) noexcept nogil:
    """Bytes per nanosecond of each reader."""
    return min(domain.core_rate, domain.rate / domain.readers.size)


cdef inline void advance(Domain *domain, double time) noexcept nogil:
    if domain.readers.size:
        domain.served += share(domain) * (time - domain.now)
    domain.now = time


cdef inline void join(Domain *domain, double time, double size, int32_t worker) noexcept nogil:
    """A worker begins to read so many bytes."""
    advance(domain, time)
    push(&domain.readers, domain.served + size, worker, 0)


cdef inline double leave(Domain *domain, double time, int32_t worker) noexcept nogil:
    """A worker reads no more; returns how many bytes it has not got, 0 if it has read all."""
    cdef double left
    cdef int32_t i
    for i in range(domain.readers.size):
        if domain.readers.entries[i].worker == worker:
            advance(domain, time)
            left = max(0.0, domain.readers.entries[i].time - domain.served)
            take_out(&domain.readers, i)
            return left
    return 0


cdef inline double next_end(const Domain *domain) noexcept nogil:
    """When the first of the readers has read all."""
    if not domain.readers.size:
        return INFINITY
    return max(domain.now, domain.now + (domain.readers.entries[0].time - domain.served) / share(domain))
