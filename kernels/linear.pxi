# linear: out = bf16(norm(x)) . W^T (+ bias) (+ residual)
#
#   x         f32 or bf16 [rows, k]         weight  tiles [n_tiles][k_tiles]      bias  f32 [ELLM_TILE_N * n_tiles]
#   out       f32 or bf16 [rows, n], the columns of column tiles [tile, tile + tiles) per task; the task that owns the
#             last column also zeroes a bf16 row's pad [n, out_stride)
#   residual  f32 [rows, n], out_stride apart; may be `out` itself
#
# The sum is added to the residual in f32 before any rounding.

cdef void linear(const ellm_task *task) noexcept nogil:
    cdef const ellm_linear *op = <const ellm_linear *> task.args
    cdef product p = multiply(task, op)
    cdef int64_t begin = ELLM_TILE_N * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N * p.tiles)
    cdef int64_t row
    cdef const float *residual
    cdef float *c
    cdef float *sum
    cdef char *out
    for row in range(task.rows):
        c = p.c + row * p.stride
        out = row_of(task.section + op.out, row, op.out_stride, op.out_bf16)
        if op.residual >= 0:
            residual = <const float *> (task.section + op.residual) + row * op.out_stride + begin
            sum = c if op.out_bf16 else <float *> out + begin
            vector_add(c, residual, sum, end - begin)
        if op.residual < 0 or op.out_bf16:
            vector_store(c, out, op.out_bf16, begin, end - begin)
        if op.out_bf16 and end == op.n:
            memset(<ellm_bf16 *> out + end, 0, (op.out_stride - op.n) * sizeof(ellm_bf16))
