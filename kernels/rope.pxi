# rope: rotary position embedding of every head.
#
#   x'_i = x_i cos - x_j sin,  x'_j = x_j cos + x_i sin          x, out: f32 [rows, heads, head_dim]
#
# Pairs (i, j) are (i, i + rotary / 2), as in most Hugging Face checkpoints, or, interleaved, (2 i, 2 i + 1); the dims
# from `rotary` on are copied. `angles` is what the kernel of that name wrote; out may be x. Su et al., 2021, section
# 3.4.2. 1 task.

from libc.string cimport memmove


cdef void rope(const ellm_task *task) noexcept nogil:
    cdef const ellm_rope *op = <const ellm_rope *> task.args
    cdef const float *angles = <const float *> (task.section + op.angles)
    cdef float *out = <float *> (task.section + op.out)
    cdef int64_t width = op.heads * op.head_dim, head
    cdef int32_t row
    memmove(out, task.section + op.x, task.rows * width * sizeof(float))
    for row in range(task.rows):
        for head in range(op.heads):
            if op.interleaved:
                vector_rotate_interleaved(out + row * width + head * op.head_dim, angles + row * op.rotary, op.rotary)
            else:
                vector_rotate(out + row * width + head * op.head_dim, angles + row * op.rotary, op.rotary)
