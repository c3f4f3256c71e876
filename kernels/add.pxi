# add: out = a + b, all f32 [rows, width]; out may be a or b. 1 task.

cdef void add(const ellm_task *task) noexcept nogil:
    cdef const ellm_add *op = <const ellm_add *> task.args
    vector_add(
        <const float *> (task.section + op.a),
        <const float *> (task.section + op.b),
        <float *> (task.section + op.out),
        task.rows * op.width,
    )
