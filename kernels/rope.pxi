# rope: rotary position embedding of every head.
#
#   x'_i = x_i cos - x_j sin,  x'_j = x_j cos + x_i sin          x: f32, out: f32 or bf16 [rows, heads, head_dim]
#
# Pairs (i, j) are (i, i + rotary / 2), as in most Hugging Face checkpoints, or, interleaved, (2 i, 2 i + 1); the dims
# from `rotary` on are copied. `angles` is what the kernel of that name wrote. Su et al., 2021, section 3.4.2.
#
# Task = heads [index * task_heads, + task_heads).

cdef void rope(const ellm_task *task) noexcept nogil:
    cdef const ellm_rope *op = <const ellm_rope *> task.args
    cdef const ellm_groups *source = <const ellm_groups *> &op.x
    cdef const ellm_groups_out *out = <const ellm_groups_out *> &op.out
    cdef const float *angles = <const float *> (task.section + op.angles)
    cdef float *turned = <float *> scratch_memory(task)
    cdef int64_t first = task.index * op.task_heads, head
    cdef int64_t end = min(op.heads, first + op.task_heads)
    cdef int32_t row
    for row in range(task.rows):
        for head in range(first, end):
            memcpy(turned, groups_at(task, source, row, head), op.head_dim * sizeof(float))
            if op.interleaved:
                vector_rotate_interleaved(turned, angles, op.rotary)
            else:
                vector_rotate(turned, angles, op.rotary)
            groups_store(task, out, row, head, 0, turned, op.head_dim)
        if end == op.heads:
            groups_pad(task, out, row, end - 1, op.head_dim)
        angles += op.rotary
