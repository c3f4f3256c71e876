# The part that linear, logits, gate_up and qkv share: which column tiles a task owns, and their product.

cdef extern from "panel.h" nogil:
    ctypedef struct ellm_matmul:
        ellm_weight weight
        ellm_int k_tiles
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
    ctypedef struct ellm_panel:
        const ellm_bf16 *a
        int64_t lda
        float *c
    char *scratch_memory(const ellm_task *task)
    ellm_panel panel(const ellm_task *task, const ellm_matmul *m)


cdef struct product:
    int64_t tile     # first column tile of the task
    int64_t tiles
    float *c         # f32 [rows, stride], bias included
    int64_t stride


# c = panel(x) . W[tile : tile + tiles]^T (+ bias), accumulated in f32 over ascending k.
cdef inline product multiply(const ellm_task *task, const void *args) noexcept nogil:
    cdef const ellm_matmul *m = <const ellm_matmul *> args
    cdef ellm_panel x = panel(task, m)
    cdef product p
    cdef int64_t row
    cdef const float *bias
    p.tile = task.index * m.task_tiles
    p.tiles = min(m.task_tiles, m.n_tiles - p.tile)
    p.c = x.c
    p.stride = 16 * m.task_tiles
    tile_matmul(x.a, x.lda, task.rows, <const ellm_bf16 *> m.weight + p.tile * m.k_tiles * ELLM_TILE,
                m.k_tiles * ELLM_TILE, ELLM_TILE, <int> p.tiles, <int> m.k_tiles, p.c, p.stride, 0)
    if m.bias != NULL:
        bias = <const float *> m.bias + 16 * p.tile
        for row in range(task.rows):
            vector_add(p.c + row * p.stride, bias, p.c + row * p.stride, 16 * p.tiles)
    return p
