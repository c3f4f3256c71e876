# probe_read: an ordinary task that reads memory as fast as it can, to measure the limit. contract.READ_LOOPS says how.
#
#   memory [tasks * bytes]: task i reads its share by the loop that streams, ahead and tiles choose

cdef extern from "probe.h" nogil:
    uint64_t probe_read_loop(const char *memory, int64_t bytes, int64_t streams, int64_t ahead, int64_t tiles)


cdef void probe_read(const ellm_task *task) noexcept nogil:
    cdef const ellm_probe_read *op = <const ellm_probe_read *> task.args
    cdef const char *share = <const char *> op.memory + task.index * op.bytes
    (<uint64_t *> scratch_memory(task))[0] = probe_read_loop(share, op.bytes, op.streams, op.ahead, op.tiles)
