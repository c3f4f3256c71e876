# probe_matmul: an ordinary task that multiplies as fast as it can, to measure the limit.
#
#   repeats * ELLM_PROBE_FLOPS operations, on 4 KiB of scratch

cdef extern from "probe.h" nogil:
    float probe_matmul_loop(char *memory, int64_t repeats)


cdef void probe_matmul(const ellm_task *task) noexcept nogil:
    cdef const ellm_probe_matmul *op = <const ellm_probe_matmul *> task.args
    cdef char *memory = scratch_memory(task)
    cdef int i
    for i in range(2048):
        (<ellm_bf16 *> memory)[i] = bf16_from_f32(<float> 0.001 * (1 + i % 7))
    (<float *> memory)[0] = probe_matmul_loop(memory, op.repeats)
