# The part that linear, logits, gate_up, qkv and the kernels of banks share: a task's column tiles and their product.

cdef extern from "panel.h" nogil:
    enum:
        PANEL_HEADER
        ACTIVATION_FORMS
    ctypedef struct ellm_matmul:
        ellm_int x_bf16
        ellm_int k
        ellm_weight weight
        ellm_int k_tiles
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int activations
    ctypedef struct ellm_panel:
        const void *a
        int64_t lda
        float *c
    char *scratch_memory(const ellm_task *task)
    int64_t panel_stride(int64_t k_tiles)
    bint panel_claim(const ellm_task *task, const ellm_matmul *m, int64_t part)
    ellm_panel panel(const ellm_task *task, const ellm_matmul *m)
    ellm_panel panel_in_place(const ellm_task *task, const ellm_matmul *m, const char *x)
    ellm_panel panel_rows(const ellm_task *task, const ellm_matmul *m, int64_t part, const char *x, int64_t rows)
    ellm_panel panel_routed(const ellm_task *task, const ellm_matmul *m, const char *routed, int64_t first)
    int64_t panel_bytes(const ellm_matmul *m)
    int64_t panel_row_bytes(const ellm_matmul *m)
    int panel_form(const ellm_matmul *m, int64_t rows)
    void panel_row(const ellm_matmul *m, const char *x, int form, char *out)
    int64_t panel_whole(int64_t rows)

cdef extern from "expand.h" nogil:
    int64_t column_bytes(int64_t format, int64_t k_tiles)
    void weight_matmul(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int64_t format, int n_tiles,
                       int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles)
    float expand_element(const char *column, int64_t format, int64_t n, int64_t k)

cdef extern from "integer.h" nogil:
    void integer_matmul(const char *a, int64_t lda, int rows, int64_t activations, const char *weight, int64_t format,
                        int n_tiles, int k_tiles, float *c, int64_t ldc, char *scratch)


# A row of f32 or bf16 rows that are `stride` elements apart.
cdef inline char *row_of(char *rows, int64_t row, int64_t stride, int64_t bf16) noexcept nogil:
    return rows + row * stride * <int64_t> (sizeof(ellm_bf16) if bf16 else sizeof(float))


cdef struct product:
    int64_t tile     # first column tile of the task
    int64_t tiles
    float *c         # f32 [rows, stride], bias included
    int64_t stride


# c = x . W[tile : tile + tiles]^T (+ bias), accumulated in f32 over ascending k, for column task `index` of a weight.
cdef inline product multiply_by(
    const ellm_task *task, const ellm_matmul *m, ellm_panel x, int64_t rows, int64_t index, const char *weight,
    const float *bias
) noexcept nogil:
    cdef const char *columns = weight + index * m.task_tiles * column_bytes(m.format, m.k_tiles)
    cdef product p
    cdef int64_t row
    cdef char *tiles
    p.tile = index * m.task_tiles
    p.tiles = min(m.task_tiles, m.n_tiles - p.tile)
    p.c = x.c
    p.stride = ELLM_TILE_N * (m.task_tiles | 1)  # an odd number of cache lines, so that rows spread over the sets of L1
    tiles = <char *> (p.c + panel_whole(rows) * p.stride)
    if m.activations:
        integer_matmul(
            <const char *> x.a, x.lda, <int> rows, m.activations, columns, m.format, <int> p.tiles, <int> m.k_tiles,
            p.c, p.stride, tiles,
        )
    else:
        weight_matmul(
            <const ellm_bf16 *> x.a, x.lda, <int> rows, columns, m.format, <int> p.tiles, <int> m.k_tiles, p.c,
            p.stride, <ellm_bf16 *> tiles,
        )
    if bias != NULL:
        for row in range(rows):
            vector_add(p.c + row * p.stride, bias + ELLM_TILE_N * p.tile, p.c + row * p.stride, ELLM_TILE_N * p.tiles)
    return p


# The product of a kernel that has one weight and the rows of its block.
cdef inline product multiply(const ellm_task *task, const void *args) noexcept nogil:
    cdef const ellm_matmul *m = <const ellm_matmul *> args
    return multiply_by(task, m, panel(task, m), task.rows, task.index, <const char *> m.weight, <const float *> m.bias)
