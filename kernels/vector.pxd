"""vector.h, groups.h and cache.h for Cython."""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from ellm.kernels.task cimport ellm_step, ellm_task

cdef extern from "vector.h" nogil:
    uint16_t bf16_from_f32(float x)
    float f32_from_bf16(uint16_t x)
    float exp_f32(float x)
    void vector_to_bf16(const float *x, uint16_t *out, int64_t n)
    void vector_from_bf16(const uint16_t *x, float *out, int64_t n)
    float vector_sum(const float *x, int64_t n)
    float vector_sum_squares(const float *x, int64_t n)
    void vector_allow(const uint32_t *mask, float *x, int64_t n)
    float vector_max(const float *x, int64_t n)
    float vector_rms_scale(const float *x, double eps, int64_t n)
    void vector_norm(const float *x, const float *weight, float scale, float *out, int64_t n)
    void vector_norm_to_bf16(const float *x, const float *weight, float scale, uint16_t *out, int64_t n)
    void vector_store(const float *x, void *row, int64_t bf16, int64_t begin, int64_t n)
    void vector_add(const float *a, const float *b, float *out, int64_t n)
    void vector_silu_mul(const float *gate, const float *up, float *out, int64_t n)
    void vector_silu_mul_tiles(float *c, int64_t pairs)
    void vector_clamped_glu(const float *gate, const float *up, float limit, float alpha, float *out, int64_t n)
    void vector_exp(float *x, float scale, float max, int64_t n)
    void vector_rotate(float *x, const float *angles, int64_t rotary)
    void vector_rotate_interleaved(float *x, const float *angles, int64_t rotary)
    void vector_add_scaled(const float *x, float scale, float *out, int64_t n)

cdef extern from "groups.h" nogil:
    ctypedef struct ellm_groups:
        pass
    ctypedef struct ellm_groups_out:
        pass
    const float *groups_at(const ellm_task *task, const ellm_groups *source, int64_t row, int64_t group)
    void *groups_out_at(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t group, int64_t column)
    void groups_store(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t group, int64_t begin,
                      const float *x, int64_t n)
    void groups_pad(const ellm_task *task, const ellm_groups_out *to, int64_t row, int64_t last, int64_t width)

cdef extern from "cache.h" nogil:
    int64_t k_tiles_of(int64_t n)
    int64_t n_tiles_of(int64_t n)
    char *cache_block(const ellm_step *step, int64_t slot, int64_t block, int64_t block_stride)
    void cache_store_key(uint16_t *keys, int64_t position, const float *x, int64_t head_dim)
    void cache_store_value(uint16_t *values, int64_t position, const float *x, int64_t head_dim)
    void cache_turn(float *x, int64_t n)
    int64_t cache_key_bytes(int64_t head_dim)
    int64_t cache_value_bytes(int64_t head_dim)
    void cache_store_key_int8(char *keys, int64_t position, const float *x, int64_t head_dim)
    void cache_store_value_int8(char *values, int64_t position, const float *x, int64_t head_dim)
    void cache_expand(
        const char *groups, int64_t count, int64_t bytes, int64_t codes, uint16_t *tiles, int64_t ahead
    )
    void cache_scales(const char *groups, int64_t count, int64_t bytes, int64_t positions, float *scales)
    void cache_scales_prefetch(const char *groups, int64_t count, int64_t bytes, int64_t positions)
    void cache_store_two_values(uint16_t *values, int64_t position, const float *x, int64_t stride, int64_t head_dim)
    void cache_load_keys(const uint16_t *keys, int64_t key_tiles, int64_t rows, uint16_t *out, int64_t stride)
    void cache_values_of_keys(
        const uint16_t *keys, int64_t key_tiles, int64_t k_tiles, int64_t n_tiles, uint16_t *values
    )
