/* Groups of columns (heads) of rows, which may lie apart: arguments.h says how. */
#ifndef ELLM_GROUPS_H
#define ELLM_GROUPS_H
#include "task.h"
#include "vector.h"

typedef struct ellm_groups {
    ELLM_GROUPS
} ellm_groups;

typedef struct ellm_groups_out {
    ELLM_GROUPS_OUT
} ellm_groups_out;

static inline const float *groups_at(const ellm_task *task, const ellm_groups *from, int64_t row, int64_t group) {
    return (const float *)(task->section + from->x) + row * from->x_stride + group * from->x_group_stride;
}

/* The place of a group's column: bf16 or f32. */
static inline void *groups_out_at(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t group,
                                  int64_t column) {
    int64_t at = row * to->out_stride + group * to->out_group_stride + column;
    return task->section + to->out + at * (int64_t)(to->out_bf16 ? sizeof(ellm_bf16) : sizeof(float));
}

/* Stores x as columns [begin, begin + n) of a group. */
static inline void groups_store(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t group,
                                int64_t begin, const float *x, int64_t n) {
    vector_store(x, groups_out_at(task, to, row, group, begin), to->out_bf16, 0, n);
}

/* Zeroes what pads a row behind its last group, of `width` columns. */
static inline void groups_pad(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t last,
                              int64_t width) {
    size_t size = to->out_bf16 ? sizeof(ellm_bf16) : sizeof(float);
    memset(groups_out_at(task, to, row, last, width), 0, (size_t)to->pad * size);
}

#endif
