"""task.h for Cython: the ABI between scheduler and kernels."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t

cdef extern from "task.h" nogil:
    enum:
        ELLM_TILE
        ELLM_SPLIT
        ELLM_ARGS
        ELLM_FOLD
        ELLM_WINDOWS
        ELLM_BF16
        ELLM_F16
        ELLM_FP8
        ELLM_MXFP4
        ELLM_EXPAND
        ELLM_PROBE_FLOPS

    ctypedef uint16_t ellm_bf16
    ctypedef int64_t ellm_int
    ctypedef double ellm_real
    ctypedef int64_t ellm_buffer
    ctypedef const void *ellm_weight
    ctypedef int64_t ellm_range
    ctypedef int64_t ellm_shared

    ctypedef struct ellm_attend_item:
        int32_t row
        int32_t rows
        int32_t slot
        int32_t position
        int32_t split_begin
        int32_t split_end
        int32_t partial
        int32_t split_first
        int32_t split_last
        int32_t reserved

    ctypedef struct ellm_merge_item:
        int32_t row
        int32_t rows
        int32_t partial
        int32_t splits

    ctypedef struct ellm_sampling:
        double temperature
        double top_p
        double min_p
        double repeat_penalty
        int64_t top_k
        uint64_t seed
        int64_t counter
        const int32_t *history
        int64_t history_len

    ctypedef struct ellm_step:
        int64_t number
        int64_t rows
        int64_t logit_rows
        int64_t sample_rows
        const int32_t *tokens
        const int32_t *positions
        const int32_t *slots
        char **ranges
        const int32_t *logit_row
        float *logits
        const ellm_sampling *sampling
        int32_t *sampled
        float *logprob
        float *partials
        const ellm_attend_item *items[ELLM_WINDOWS]
        const int32_t *item_begin[ELLM_WINDOWS]
        const ellm_merge_item *merges[ELLM_WINDOWS]
        const int32_t *merge_begin[ELLM_WINDOWS]

    ctypedef struct ellm_task:
        const void *args
        const ellm_step *step
        char *arena
        char *section
        int64_t section_bytes
        char *scratch
        int32_t *error
        int32_t row_block
        int32_t block
        int32_t row
        int32_t rows
        int32_t index
        int32_t worker

    ctypedef struct ellm_embed:
        ellm_weight table
        ellm_buffer out
        ellm_int width
        ellm_int k_tiles
        ellm_int vocab
        ellm_real scale
        ellm_int format

    ctypedef struct ellm_angles:
        ellm_weight inv_freq
        ellm_buffer out
        ellm_int half
        ellm_real factor

    ctypedef struct ellm_gather:
        ellm_buffer x
        ellm_buffer out
        ellm_int width

    ctypedef struct ellm_rms_norm:
        ellm_buffer x
        ellm_weight weight
        ellm_buffer out
        ellm_int out_bf16
        ellm_int out_stride
        ellm_int groups
        ellm_int width
        ellm_real eps

    ctypedef struct ellm_linear:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int n
        ellm_buffer out
        ellm_int out_bf16
        ellm_int out_stride
        ellm_buffer residual

    ctypedef struct ellm_logits:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int n

    ctypedef struct ellm_gate_up:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int n
        ellm_buffer out
        ellm_int out_stride

    ctypedef struct ellm_qkv:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int task_heads
        ellm_int heads
        ellm_int kv_heads
        ellm_int head_dim
        ellm_int head_tiles
        ellm_weight q_norm
        ellm_weight k_norm
        ellm_real head_eps
        ellm_buffer angles
        ellm_int rotary
        ellm_buffer q
        ellm_int q_width
        ellm_range keys
        ellm_range key_stride
        ellm_range values
        ellm_range value_stride

    ctypedef struct ellm_rope:
        ellm_buffer x
        ellm_buffer angles
        ellm_buffer out
        ellm_int heads
        ellm_int head_dim
        ellm_int rotary
        ellm_int interleaved

    ctypedef struct ellm_append:
        ellm_buffer k
        ellm_buffer v
        ellm_int kv_heads
        ellm_int head_dim
        ellm_int value_dim
        ellm_int values_in_keys
        ellm_range keys
        ellm_range key_stride
        ellm_range values
        ellm_range value_stride

    ctypedef struct ellm_expand_latent:
        ellm_range cached
        ellm_int latent
        ellm_int rotary
        ellm_int heads
        ellm_weight to_keys
        ellm_int to_keys_stride
        ellm_int to_keys_format
        ellm_int key_dim
        ellm_weight to_values
        ellm_int to_values_stride
        ellm_int to_values_format
        ellm_int value_dim
        ellm_range keys
        ellm_range key_stride
        ellm_range values
        ellm_range value_stride

    ctypedef struct ellm_attend:
        ellm_buffer q
        ellm_int q_bf16
        ellm_int q_stride
        ellm_int q_head_stride
        ellm_int heads
        ellm_int kv_heads
        ellm_int head_dim
        ellm_int value_dim
        ellm_int values_in_keys
        ellm_range keys
        ellm_range key_stride
        ellm_range values
        ellm_range value_stride
        ellm_real scale
        ellm_int window
        ellm_int window_class
        ellm_weight sinks
        ellm_buffer out
        ellm_int out_stride

    ctypedef struct ellm_merge:
        ellm_int heads
        ellm_int kv_heads
        ellm_int value_dim
        ellm_int window_class
        ellm_weight sinks
        ellm_buffer out
        ellm_int out_stride

    ctypedef struct ellm_swiglu:
        ellm_buffer gate
        ellm_buffer up
        ellm_buffer out
        ellm_int width

    ctypedef struct ellm_add:
        ellm_buffer a
        ellm_buffer b
        ellm_buffer out
        ellm_int width

    ctypedef struct ellm_copy:
        ellm_buffer x
        ellm_int x_stride
        ellm_int x_group_stride
        ellm_int x_first
        ellm_buffer out
        ellm_int out_bf16
        ellm_int out_stride
        ellm_int out_group_stride
        ellm_int out_first
        ellm_int groups
        ellm_int width
        ellm_int pad

    ctypedef struct ellm_head_linear:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int x_head_stride
        ellm_int heads
        ellm_int bank_stride
        ellm_int n
        ellm_buffer out
        ellm_int out_bf16
        ellm_int out_stride
        ellm_int out_head_stride
        ellm_int out_first
        ellm_int pad

    ctypedef struct ellm_route:
        ellm_buffer scores
        ellm_weight bias
        ellm_int experts
        ellm_int score
        ellm_int groups
        ellm_int keep_groups
        ellm_int group_top
        ellm_real masked_value
        ellm_int top_k
        ellm_int normalize
        ellm_real scale
        ellm_shared ids
        ellm_shared weights

    ctypedef struct ellm_dispatch:
        ellm_shared ids
        ellm_int experts
        ellm_int top_k
        ellm_shared begin
        ellm_shared rows
        ellm_shared position
        ellm_shared tiles_of
        ellm_shared list

    ctypedef struct ellm_expert_gate_up:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int bank_stride
        ellm_int bias_stride
        ellm_shared begin
        ellm_shared rows
        ellm_int n
        ellm_int activation
        ellm_real limit
        ellm_real alpha
        ellm_shared out
        ellm_int out_stride

    ctypedef struct ellm_expert_down:
        ellm_buffer x
        ellm_int x_bf16
        ellm_int x_stride
        ellm_weight norm
        ellm_real eps
        ellm_int k
        ellm_int k_tiles
        ellm_weight weight
        ellm_int n_tiles
        ellm_weight bias
        ellm_int task_tiles
        ellm_int format
        ellm_int bank_stride
        ellm_int bias_stride
        ellm_shared begin
        ellm_shared routed
        ellm_int n
        ellm_shared out

    ctypedef struct ellm_combine:
        ellm_buffer residual
        ellm_shared y
        ellm_shared weights
        ellm_shared position
        ellm_int top_k
        ellm_int n
        ellm_int task_columns
        ellm_buffer out

    ctypedef struct ellm_sample:
        ellm_int vocab

    ctypedef struct ellm_probe_read:
        ellm_weight memory
        ellm_int bytes
        ellm_int streams
        ellm_int ahead
        ellm_int tiles
        ellm_int tasks

    ctypedef struct ellm_probe_matmul:
        ellm_int repeats
        ellm_int tasks

    ctypedef void (*ellm_kernel)(const ellm_task *) noexcept nogil
