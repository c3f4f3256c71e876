"""Records of what a worker does, made while its executable is traced."""


cdef void record(
    Ring *ring, int32_t what, int64_t begin, int64_t end, int32_t group, int32_t index, uint32_t step
) noexcept nogil:
    cdef Record *entry
    if ring.count == ring.capacity:
        ring.dropped += 1
        return
    entry = &ring.records[ring.count]
    entry.begin, entry.end = begin, end
    entry.group, entry.index = group, index
    entry.step, entry.what = step, what
    ring.count += 1


cdef void record_since(WorkerState *self, int32_t what, int64_t end) noexcept nogil:
    """Record what this worker has done since it turned idle, or since its last record of that."""
    record(self.ring, what, self.ring.since, end, -1, -1, <uint32_t>self.program.step.number)
    self.ring.since = end


cdef void record_idleness(WorkerState *self, int64_t now) noexcept nogil:
    """Record how a worker that has work again, or goes home, came by it; nothing if it came at once."""
    cdef Ring *ring = self.ring
    if ring.waited:
        record_since(self, RECORD_WAIT, ring.searched if ring.stolen else now)
    if ring.stolen:
        ring.since = ring.searched
        record_since(self, RECORD_STEAL, now)
    ring.waited = 0


cdef inline void record_task(WorkerState *self, int32_t number, int64_t begin) noexcept nogil:
    record(self.ring, RECORD_STOLEN if self.ring.stolen else RECORD_TASK, begin, clock_ticks(), number,
           self.task.index, <uint32_t>self.program.step.number)
