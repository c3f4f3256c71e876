/* Merging parts of a softmax: (o, max, sum) are a numerator, a maximum and a sum. A sum of 0 says that a row sees no key. */
#ifndef ELLM_MERGE_H
#define ELLM_MERGE_H
#include "vector.h"

/* What numerators so far and of a part are multiplied by when the part is merged, for each row; merges max and sum. */
static inline void merge_scales(float *restrict max, float *restrict sum, const float *restrict part_max,
                                const float *restrict part_sum, float *restrict old, float *restrict new, int64_t rows) {
    for (int64_t f = 0; f < rows; f++) {
        float other = part_sum[f] == 0.0f ? -INFINITY : part_max[f];
        float top = other > max[f] ? other : max[f];
        old[f] = exp_f32(max[f] - top);
        new[f] = exp_f32(other - top);
        sum[f] = sum[f] * old[f] + part_sum[f] * new[f];
        max[f] = top;
    }
}

/* o = o * old + part * new; a part without keys has any numbers, and a `new` of 0. */
static inline void merge_row(float *restrict o, const float *restrict part, float old, float new, int64_t n) {
    if (new == 0.0f && old == 1.0f) return;
    for (int64_t i = 0; i < n; i++) o[i] = o[i] * old + part[i] * new;
}

#endif
