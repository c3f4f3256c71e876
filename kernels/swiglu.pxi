# swiglu: the gated product of an MLP.
#
#   out = silu(gate) * up,  silu(x) = x / (1 + e^-x)          all f32 [rows, width]
#
# out may be gate or up. Shazeer, 2020, equation 5. 1 task.

cdef void swiglu(const ellm_task *task) noexcept nogil:
    cdef const ellm_swiglu *op = <const ellm_swiglu *> task.args
    vector_silu_mul(
        <const float *> (task.section + op.gate),
        <const float *> (task.section + op.up),
        <float *> (task.section + op.out),
        task.rows * op.width,
    )
