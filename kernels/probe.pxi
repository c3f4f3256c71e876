# probe_read, probe_matmul: ordinary tasks that measure what this machine reaches, see probe.h and contract.READ_LOOPS
#
#   probe_read    memory [tasks * bytes]: task i reads its share by the loop that streams, ahead and tiles choose
#   probe_matmul  repeats * ELLM_PROBE_FLOPS operations a task, on 4 KiB of scratch

cdef extern from "probe.h" nogil:
    uint64_t probe_read_loop(const char *memory, int64_t bytes, int64_t streams, int64_t ahead, int64_t tiles)
    float probe_matmul_loop(char *memory, int64_t repeats)


cdef void probe_read(const ellm_task *task) noexcept nogil:
    cdef const ellm_probe_read *op = <const ellm_probe_read *> task.args
    cdef const char *share = <const char *> op.memory + task.index * op.bytes
    (<uint64_t *> scratch_memory(task))[0] = probe_read_loop(share, op.bytes, op.streams, op.ahead, op.tiles)


cdef void probe_matmul(const ellm_task *task) noexcept nogil:
    cdef const ellm_probe_matmul *op = <const ellm_probe_matmul *> task.args
    cdef char *memory = scratch_memory(task)
    cdef int i
    for i in range(2048):
        (<ellm_bf16 *> memory)[i] = bf16_from_f32(<float> 0.001 * (1 + i % 7))
    (<float *> memory)[0] = probe_matmul_loop(memory, op.repeats)
