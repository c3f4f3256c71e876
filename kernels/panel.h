/* A worker's scratch memory, and the A operand of a matmul in it.
 *
 * Scratch is a 64-byte tag, then memory. A panel, bf16(rms_norm(x)) of all rows of the block, is the same for every
 * task of an operator on a row block, so the tag says whose panel the memory holds and a worker prepares it once.
 */
#ifndef ELLM_PANEL_H
#define ELLM_PANEL_H
#include "vector.h"

typedef struct ellm_matmul {
    ELLM_MATMUL
} ellm_matmul;

typedef struct ellm_panel {
    const ellm_bf16 *a;   /* [row_block][32 * k_tiles] */
    int64_t lda;          /* elements */
    float *c;             /* scratch behind it, 64-byte aligned */
} ellm_panel;

typedef struct panel_tag {
    const void *args;
    int64_t step;
    int64_t block;
} panel_tag;

#define PANEL_HEADER 64

/* The worker's scratch for any use; a panel in it is forgotten. 64-byte aligned. */
static inline char *scratch_memory(const ellm_task *task) {
    ((panel_tag *)task->scratch)->args = 0;
    return task->scratch + PANEL_HEADER;
}

/* Elements between a panel's rows: an odd number of cache lines, so that rows spread over the sets of L1. */
static inline int64_t panel_stride(int64_t k_tiles) { return 32 * (k_tiles | 1); }

static inline void panel_prepare(const ellm_task *task, const ellm_matmul *m, ellm_bf16 *out, int64_t stride) {
    for (int64_t row = 0; row < task->rows; row++) {
        const float *x = (const float *)(task->section + m->x) + row * m->x_stride;
        if (m->norm)
            vector_norm_to_bf16(x, (const float *)m->norm, vector_rms_scale(x, m->eps, m->k), out + row * stride, m->k);
        else
            vector_to_bf16(x, out + row * stride, m->k);
        memset(out + row * stride + m->k, 0, (size_t)(32 * m->k_tiles - m->k) * sizeof *out);
    }
}

/* The A operand of this task: bf16 rows in place, f32 rows as a panel. */
static inline ellm_panel panel(const ellm_task *task, const ellm_matmul *m) {
    if (m->x_bf16) {
        const ellm_bf16 *x = (const ellm_bf16 *)(task->section + m->x);
        return (ellm_panel){x, m->x_stride, (float *)scratch_memory(task)};
    }
    panel_tag *tag = (panel_tag *)task->scratch;
    int64_t stride = panel_stride(m->k_tiles);
    ellm_bf16 *a = (ellm_bf16 *)(task->scratch + PANEL_HEADER);
    if (tag->args != m || tag->step != task->step->number || tag->block != task->block) {
        panel_prepare(task, m, a, stride);
        *tag = (panel_tag){m, task->step->number, task->block};
    }
    return (ellm_panel){a, stride, (float *)(a + task->row_block * stride)};
}

#endif
