# gate_up: out = silu(gate) * up; tile 2i of the product is column tile i of gate, tile 2i + 1 that of up
#
#   x       f32 or bf16 [rows, k]             weight  tiles [n_tiles][k_tiles], n_tiles = 2 * ceil(n / ELLM_TILE_N)
#   out     f32 or bf16 [rows, n]; the task that owns the last column zeroes a bf16 row's pad [n, out_stride)
#
# SwiGLU: Shazeer, 2020 (https://arxiv.org/abs/2002.05202). silu and the product are f32, rounded once.

cdef void gate_up(const ellm_task *task) noexcept nogil:
    cdef const ellm_gate_up *op = <const ellm_gate_up *> task.args
    cdef product p = multiply(task, op)
    cdef int64_t begin = ELLM_TILE_N // 2 * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N // 2 * p.tiles)
    cdef int64_t row
    cdef float *c
    cdef char *out
    for row in range(task.rows):
        out = row_of(task.section + op.out, row, op.out_stride, op.out_bf16)
        c = p.c + row * p.stride
        vector_silu_mul_tiles(c, p.tiles // 2)
        vector_store(c, out, op.out_bf16, begin, end - begin)
        if end == op.n and op.out_bf16:
            memset(<ellm_bf16 *> out + end, 0, (op.out_stride - op.n) * sizeof(ellm_bf16))
