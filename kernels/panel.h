/* A worker's scratch memory, and the A operand of a matmul in it or in memory that all share.
 *
 * Scratch is a 64-byte tag, then memory. A panel, rms_norm(x) of all rows of the block in bf16 or in whole numbers, is
 * the same for every task of an operator on a row block (or on a head or a row tile of an expert: a part), so the tag says
 * whose panel the memory holds and a worker prepares it once. Rows of experts are prepared once for all workers, as rows of a
 * panel by routed position: by scatter for gate and up, and in bf16 by these for down. In whole numbers down makes a panel
 * itself, as a task of gate and up has fewer columns than have one scale.
 */
#ifndef ELLM_PANEL_H
#define ELLM_PANEL_H
#include "activations.h"

typedef struct ellm_matmul {
    ELLM_MATMUL
} ellm_matmul;

typedef struct ellm_panel {
    const void *a;        /* rows of ELLM_TILE_K * k_tiles elements */
    int64_t lda;          /* bf16 elements; bytes of activations in whole numbers */
    float *c;             /* scratch behind it, 64-byte aligned */
} ellm_panel;

typedef struct panel_tag {
    const void *args;
    int64_t step;
    int64_t block;
    int64_t part;
} panel_tag;

#define PANEL_HEADER 64

/* The worker's scratch for any use; a panel in it is forgotten. 64-byte aligned. */
static inline char *scratch_memory(const ellm_task *task) {
    ((panel_tag *)task->scratch)->args = 0;
    return task->scratch + PANEL_HEADER;
}

/* Elements between a bf16 panel's rows: an odd number of cache lines, so that rows spread over the sets of L1. */
static inline int64_t panel_stride(int64_t k_tiles) { return ELLM_TILE_K * (k_tiles | 1); }

/* One row of a bf16 panel from x, bf16 or f32 [k]. */
static inline void panel_row_bf16(const ellm_matmul *m, const char *x, ellm_bf16 *out) {
    if (m->x_bf16)
        memcpy(out, x, (size_t)m->k * sizeof *out);
    else if (m->norm)
        vector_norm_to_bf16((const float *)x, (const float *)m->norm, vector_rms_scale((const float *)x, m->eps, m->k), out,
                            m->k);
    else
        vector_to_bf16((const float *)x, out, m->k);
    memset(out + m->k, 0, (size_t)(ELLM_TILE_K * m->k_tiles - m->k) * sizeof *out);
}

/* One row of a panel in whole numbers. */
static inline void panel_row_whole(const ellm_matmul *m, const char *x, int form, char *out) {
    float scale = m->norm ? vector_rms_scale((const float *)x, m->eps, m->k) : 0;
    const ellm_format *f = &ELLM_FORMATS[m->format];
    int64_t unit = activation_unit(f);
    for (int64_t tile = 0; tile < m->k_tiles; tile += unit) {
        float part[ACTIVATION_TILES * ELLM_TILE_K] = {0};
        int64_t tiles = m->k_tiles - tile < unit ? m->k_tiles - tile : unit;
        int64_t begin = ELLM_TILE_K * tile, n = m->k - begin < ELLM_TILE_K * tiles ? m->k - begin : ELLM_TILE_K * tiles;
        if (m->x_bf16)
            vector_from_bf16((const ellm_bf16 *)x + begin, part, n);
        else if (m->norm)
            vector_norm((const float *)x + begin, (const float *)m->norm + begin, scale, part, n);
        else
            memcpy(part, (const float *)x + begin, (size_t)n * sizeof *part);
        activation_store_unit(part, (int)tiles, m->activations, form, f, out + ACTIVATION_CELL * tile,
                              activation_sides(out, m->k_tiles) + tile);
    }
}

/* Bytes between a panel's rows. */
static inline int64_t panel_bytes(const ellm_matmul *m) {
    return m->activations ? activation_stride(m->k_tiles) : panel_stride(m->k_tiles) * (int64_t)sizeof(ellm_bf16);
}

/* What a row of a panel takes of them. */
static inline int64_t panel_row_bytes(const ellm_matmul *m) {
    if (!m->activations) return m->k_tiles * ELLM_TILE_K * (int64_t)sizeof(ellm_bf16);
    return (m->k_tiles + (m->k_tiles & 1)) * (ACTIVATION_CELL + (int64_t)sizeof(activation_side));
}

/* How a panel of `rows` rows holds its numbers. */
static inline int panel_form(const ellm_matmul *m, int64_t rows) {
    return m->activations ? activation_form(m->activations, rows, &ELLM_FORMATS[m->format]) : 0;
}

/* One row of a panel. */
static inline void panel_row(const ellm_matmul *m, const char *x, int form, char *out) {
    if (m->activations)
        panel_row_whole(m, x, form, out);
    else
        panel_row_bf16(m, x, (ellm_bf16 *)out);
}

/* Bytes between the rows of x. */
static inline int64_t panel_source_stride(const ellm_matmul *m) {
    return m->x_stride * (int64_t)(m->x_bf16 ? sizeof(ellm_bf16) : sizeof(float));
}

/* Whether scratch lacks the panel of this operator, step, block and part (0, or which head or row tile); now it is
 * tagged as theirs. */
static inline int panel_claim(const ellm_task *task, const ellm_matmul *m, int64_t part) {
    panel_tag wanted = {m, task->step->number, task->block, part};
    if (memcmp(task->scratch, &wanted, sizeof wanted) == 0) return 0;
    memcpy(task->scratch, &wanted, sizeof wanted);
    return 1;
}

/* Rows of whole row tiles, which products read and write. */
static inline int64_t panel_whole(int64_t rows) { return (rows + ELLM_TILE_N - 1) / ELLM_TILE_N * ELLM_TILE_N; }

/* What products count between a panel's rows. */
static inline int64_t panel_lda(const ellm_matmul *m) { return m->activations ? panel_bytes(m) : panel_stride(m->k_tiles); }

/* bf16 rows used where they are, each followed by what pads it to ELLM_TILE_K * k_tiles. */
static inline ellm_panel panel_in_place(const ellm_task *task, const ellm_matmul *m, const char *x) {
    return (ellm_panel){x, m->x_stride, (float *)scratch_memory(task)};
}

/* A panel of rows of x. */
static inline ellm_panel panel_rows(const ellm_task *task, const ellm_matmul *m, int64_t part, const char *x, int64_t rows) {
    char *a = task->scratch + PANEL_HEADER;
    if (panel_claim(task, m, part))
        for (int64_t row = 0; row < rows; row++)
            panel_row(m, x + row * panel_source_stride(m), panel_form(m, rows), a + row * panel_bytes(m));
    return (ellm_panel){a, panel_lda(m), (float *)(a + panel_whole(rows) * panel_bytes(m))};
}

/* The A operand from a routed position on, of rows of a panel that all workers share. */
static inline ellm_panel panel_routed(const ellm_task *task, const ellm_matmul *m, const char *routed, int64_t first) {
    return (ellm_panel){routed + first * panel_bytes(m), panel_lda(m), (float *)scratch_memory(task)};
}

/* The A operand of this task. */
static inline ellm_panel panel(const ellm_task *task, const ellm_matmul *m) {
    const char *x = task->section + m->x;
    if (m->x_bf16 && !m->activations) return panel_in_place(task, m, x);
    return panel_rows(task, m, 0, x, task->rows);
}

#endif
