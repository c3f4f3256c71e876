/* The arguments of each kernel, and what it computes of them; part of task.h. */
#ifndef ELLM_ARGUMENTS_H
#define ELLM_ARGUMENTS_H
#include "task.h"

/* out[r] = table[:, tokens[r]] * scale; the table is a packed weight, so tied embeddings share the head's bytes. 1 task. */
typedef struct ellm_embed {
    ellm_weight table;
    ellm_buffer out;          /* f32 [rows, width] */
    ellm_int width;
    ellm_int k_tiles;
    ellm_int vocab;
    ellm_real scale;
    ellm_int format;          /* of the table */
} ellm_embed;

/* out[r] = step->input_rows[row + r]: what the caller gives of each row beside its token. 1 task. */
typedef struct ellm_input_rows {
    ellm_buffer out;          /* f32 [rows, width] */
    ellm_int width;
} ellm_input_rows;

/* out[r, i] = (cos, sin)(positions[r] * inv_freq[i]) * factor. 1 task. */
typedef struct ellm_angles {
    ellm_weight inv_freq;     /* f32 [half] */
    ellm_buffer out;          /* f32 [rows, half, 2] */
    ellm_int half;
    ellm_real factor;
} ellm_angles;

/* Copies the rows that want logits out of their sections: out[r] = x[logit_row[row + r]]. 1 task. */
typedef struct ellm_gather {
    ellm_buffer x;            /* f32 [rows, width], in the section of the row's own block */
    ellm_buffer out;          /* f32 [rows, width] */
    ellm_int width;
} ellm_gather;

/* Where groups of columns (heads) are read: they, and rows, may lie apart, as a slice's do. */
#define ELLM_GROUPS                                                                                        \
    ellm_buffer x;            /* f32 [rows, groups, width] */                                              \
    ellm_int x_stride;        /* elements between rows */                                                  \
    ellm_int x_group_stride;  /* elements between groups */

/* And where they are written: they may lie apart, as a part of a concatenation does. */
#define ELLM_GROUPS_OUT                                                                                    \
    ellm_buffer out;          /* f32 or bf16 [rows, groups, width] */                                      \
    ellm_int out_bf16;                                                                                     \
    ellm_int out_stride;      /* elements between rows */                                                  \
    ellm_int out_group_stride;                                                                             \
    ellm_int pad;             /* elements of a row to zero after the last group */

/* out = x * rsqrt(mean(x^2) + eps) * weight over each of `groups` runs of `width`, by `tasks` tasks. */
typedef struct ellm_rms_norm {
    ELLM_GROUPS
    ELLM_GROUPS_OUT
    ellm_weight weight;       /* f32 [width] */
    ellm_int groups;
    ellm_int width;
    ellm_real eps;
    ellm_int tasks;
} ellm_rms_norm;

/* The A operand of a matmul and its packed weight; the first fields of every kernel that multiplies. */
#define ELLM_MATMUL                                                                                        \
    ellm_buffer x;            /* [rows, k]: f32 (stride k unless given), or bf16 */                        \
    ellm_int x_bf16;                                                                                       \
    ellm_int x_stride;        /* elements */                                                               \
    ellm_weight norm;         /* f32 [k]: rms_norm of x first (x must be f32); NULL: none */               \
    ellm_real eps;                                                                                         \
    ellm_int k;                                                                                            \
    ellm_int k_tiles;                                                                                      \
    ellm_weight weight;       /* tiles [n_tiles][k_tiles] */                                               \
    ellm_int n_tiles;                                                                                      \
    ellm_weight bias;         /* f32 [16 * n_tiles] in packed column order; NULL: none */                  \
    ellm_int task_tiles;      /* column tiles of one task (the last may have fewer) */                     \
    ellm_int format;          /* of the weight */                                                          \
    ellm_int activations;     /* what x is rounded to: 0: bf16, ELLM_INT16, ELLM_INT8 */

/* out = bf16(norm(x)) . W^T (+ bias) (+ residual), accumulated in f32. ceil(n_tiles / task_tiles) tasks. */
typedef struct ellm_linear {
    ELLM_MATMUL
    ellm_int n;
    ellm_buffer out;          /* f32 or bf16 [rows, n]; may be the residual's own buffer */
    ellm_int out_bf16;
    ellm_int out_stride;      /* elements */
    ellm_buffer residual;     /* f32, stride out_stride; -1: none */
} ellm_linear;

/* linear whose rows are the logit rows and whose output is step->logits [logit_rows, n]. */
typedef struct ellm_logits {
    ELLM_MATMUL
    ellm_int n;
} ellm_logits;

/* out = silu(gate) * up with gate and up column tiles interleaved (tile 2i = gate i, 2i+1 = up i); task_tiles is even. */
typedef struct ellm_gate_up {
    ELLM_MATMUL
    ellm_int n;               /* width of out */
    ellm_buffer out;          /* f32 or bf16 [rows, n] */
    ellm_int out_bf16;
    ellm_int out_stride;
} ellm_gate_up;

/* Joined q|k|v heads, each padded to head_tiles column tiles; bias, head norm, rope, then q to `q`, k and v to the KV range.
 * Tasks: ceil((heads + 2 * kv_heads) / task_heads), with task_tiles = task_heads * head_tiles. */
typedef struct ellm_qkv {
    ELLM_MATMUL
    ellm_int task_heads;
    ellm_int heads;
    ellm_int kv_heads;
    ellm_int head_dim;
    ellm_int head_tiles;      /* ceil(head_dim / 16) */
    ellm_weight q_norm;       /* f32 [head_dim] or NULL */
    ellm_weight k_norm;
    ellm_real head_eps;
    ellm_buffer angles;       /* f32 [rows, rotary / 2, 2]; -1: no rope */
    ellm_int rotary;          /* rotated leading dims of a head, pairs (i, i + rotary / 2) */
    ellm_buffer q;            /* bf16 [rows, heads, q_width] */
    ellm_int q_width;         /* head_dim rounded up to 32 */
    ellm_range keys;          /* this layer's keys in a block; head j at keys + j * key_stride */
    ellm_range key_stride;    /* bytes */
    ellm_range values;
    ellm_range value_stride;
    ellm_int int8;            /* 1: keys and values are int8 (task.h), and q is turned as keys are */
} ellm_qkv;

/* Rotates pairs (i, i + rotary / 2), or (2 i, 2 i + 1) if interleaved, of each head, a group of columns.
 * ceil(heads / task_heads) tasks. */
typedef struct ellm_rope {
    ELLM_GROUPS
    ELLM_GROUPS_OUT
    ellm_buffer angles;       /* f32 [rows, rotary / 2, 2] */
    ellm_int heads;
    ellm_int head_dim;
    ellm_int rotary;
    ellm_int interleaved;
    ellm_int task_heads;
} ellm_rope;

/* Writes k and v rows at their positions into the KV ranges of their sequences. 1 task per KV head. */
typedef struct ellm_append {
    ellm_buffer k;            /* f32 [rows, kv_heads, head_dim] */
    ellm_buffer v;            /* f32 [rows, kv_heads, value_dim]; -1: values_in_keys */
    ellm_int kv_heads;
    ellm_int head_dim;
    ellm_int value_dim;
    ellm_int values_in_keys;  /* 1: the values are the first value_dim dims of the keys, and are not stored apart */
    ellm_range keys;
    ellm_range key_stride;
    ellm_range values;
    ellm_range value_stride;
    ellm_int int8;            /* 1: keys and values are int8 (task.h) */
} ellm_append;

/* Expands a latent cache (DeepSeek's MLA), for attend in this step, to keys and values of every head: of position s
 *   K[s, h, :] = bf16(c[s, :] . W_K[h]^T), then the rotary dims of the cached key;  V[s, h, :] = bf16(c[s, :] . W_V[h]^T)
 * where c[s, :] are the first `latent` dims of the cached key. Task = split of the context * heads + head, and does that
 * for all sequences of the step, up to their last rows. */
typedef struct ellm_expand_latent {
    ellm_range cached;        /* keys of one KV head, latent + rotary dims */
    ellm_int latent;
    ellm_int rotary;
    ellm_int heads;
    ellm_weight to_keys;      /* W_K: a packed weight [key_dim, latent] for each head */
    ellm_int to_keys_stride;  /* bytes between the packed weights of two heads */
    ellm_int to_keys_format;
    ellm_int key_dim;         /* without the rotary dims */
    ellm_weight to_values;    /* W_V: likewise [value_dim, latent] */
    ellm_int to_values_stride;
    ellm_int to_values_format;
    ellm_int value_dim;
    ellm_range keys;          /* as attend reads them */
    ellm_range key_stride;
    ellm_range values;
    ellm_range value_stride;
    ellm_range block_stride;
} ellm_expand_latent;

/* Causal grouped-query attention with online softmax over leaves of the keys. Task = item * kv_heads + KV head. */
typedef struct ellm_attend {
    ellm_buffer q;            /* [rows, heads, head_dim], f32 or bf16 */
    ellm_int q_bf16;
    ellm_int q_stride;        /* elements between rows */
    ellm_int q_head_stride;   /* elements between heads */
    ellm_int heads;
    ellm_int kv_heads;
    ellm_int head_dim;
    ellm_int value_dim;
    ellm_int values_in_keys;  /* 1: values are the first value_dim dims of the keys */
    ellm_range keys;
    ellm_range key_stride;
    ellm_range values;
    ellm_range value_stride;
    ellm_range block_stride;  /* 0: keys and values are in the blocks; else in the range itself, so far from split to split */
    ellm_int int8;            /* 1: keys and values are int8 (task.h) */
    ellm_int turns;           /* 1: q is not turned yet as such keys are */
    ellm_real scale;
    ellm_int window;          /* keys position - window + 1 .. position are seen; 0: all */
    ellm_int window_class;    /* index of step->items */
    ellm_weight sinks;        /* f32 [heads]: e^sink joins each softmax's denominator, with no value; NULL: none */
    ellm_buffer out;          /* f32 or bf16 [rows, heads * value_dim] */
    ellm_int out_bf16;
    ellm_int out_stride;
} ellm_attend;

/* Merges the partials of attend in order and writes its output. Task = merge item. */
typedef struct ellm_merge {
    ellm_int heads;
    ellm_int value_dim;
    ellm_int window_class;
    ellm_weight sinks;        /* as of attend */
    ellm_buffer out;          /* f32 or bf16 [rows, heads * value_dim] */
    ellm_int out_bf16;
    ellm_int out_stride;
} ellm_merge;

/* out = silu(gate) * up. 1 task. */
typedef struct ellm_swiglu {
    ellm_buffer gate;         /* f32 [rows, width] */
    ellm_buffer up;           /* f32 [rows, width] */
    ellm_buffer out;          /* f32 [rows, width] */
    ellm_int width;
} ellm_swiglu;

/* out = a + b. 1 task. */
typedef struct ellm_add {
    ellm_buffer a;            /* f32 [rows, width] */
    ellm_buffer b;
    ellm_buffer out;
    ellm_int width;
} ellm_add;

/* Copies groups of columns: out[r, g, i] = x[r, g, i]. ceil(groups / task_groups) tasks. */
typedef struct ellm_copy {
    ELLM_GROUPS
    ELLM_GROUPS_OUT
    ellm_int groups;
    ellm_int width;
    ellm_int task_groups;
} ellm_copy;

/* out[r, h] = bf16(x[r, h]) . W[h]^T: one packed weight per head, a group of columns. heads * ceil(n_tiles / task_tiles)
 * tasks, head by head. */
typedef struct ellm_head_linear {
    ELLM_MATMUL               /* n_tiles: of one head; norm and bias: NULL */
    ellm_int x_group_stride;  /* elements between heads */
    ELLM_GROUPS_OUT
    ellm_int heads;
    ellm_int bank_stride;     /* bytes between the packed weights of two heads */
    ellm_int n;               /* columns of one head */
} ellm_head_linear;

/* Chooses top_k experts of each row, in order of descending score, ties to the lower number. 1 task. */
typedef struct ellm_route {
    ellm_buffer scores;       /* f32 [rows, experts] */
    ellm_weight bias;         /* f32 [experts], added for the choice only; NULL: none */
    ellm_int experts;
    ellm_int score;           /* 0: scores as they are, 1: softmax over all, 2: sigmoid */
    ellm_int groups;          /* runs of experts / groups experts of which keep_groups are eligible; 0: all */
    ellm_int keep_groups;
    ellm_int group_top;       /* a group's score is its maximum (1) or the sum of its top 2 (2) */
    ellm_real masked_value;   /* what an expert of another group counts as in the choice */
    ellm_int top_k;
    ellm_int normalize;       /* 0: none, 1: divide by the sum (+ 1e-20 for sigmoid), 2: softmax over the chosen */
    ellm_real scale;
    ellm_shared ids;          /* i32 [chunk, top_k], by step row */
    ellm_shared weights;      /* f32 [chunk, top_k] */
} ellm_route;

/* Sorts the routed rows of the step by expert, then row, then choice: expert e has routed positions [begin[e], begin[e + 1]).
 * 1 task. */
typedef struct ellm_dispatch {
    ellm_shared ids;          /* i32 [chunk, top_k] */
    ellm_int experts;
    ellm_int top_k;
    ellm_shared begin;        /* i32 [experts + 1] */
    ellm_shared position;     /* i32 [chunk, top_k]: routed position of choice j of a row */
    ellm_shared rows_of;      /* i32 [experts]: rows of the expert */
    ellm_shared list;         /* i32 [1 + experts]: how many experts have rows, and which, ascending */
} ellm_dispatch;

/* Writes each step row to its routed positions as experts multiply it, rounded: panel.h has the layout. Task = piece of
 * ELLM_PIECE step rows. */
typedef struct ellm_scatter {
    ellm_buffer x;            /* [rows, k], in the section of the row's own block */
    ellm_int x_bf16;
    ellm_int x_stride;        /* elements */
    ellm_int k;
    ellm_int k_tiles;
    ellm_int format;          /* of the weight that multiplies the rows */
    ellm_int activations;
    ellm_int top_k;
    ellm_shared ids;          /* as route and dispatch leave them */
    ellm_shared begin;
    ellm_shared position;
    ellm_shared out;          /* rows of a panel by routed position */
} ellm_scatter;

/* gate_up of one expert (task->block) for its routed rows. Task = row tile * ceil(n_tiles / task_tiles) + column task; a row
 * tile is up to ELLM_EXPERT_ROWS routed rows. */
typedef struct ellm_expert_gate_up {
    ELLM_MATMUL               /* x: -1, the rows are in `routed`; weight, bias: of expert 0; gate and up column tiles
                                 interleaved as in gate_up */
    ellm_int bank_stride;     /* bytes between the packed weights of two experts */
    ellm_int bias_stride;     /* bytes */
    ellm_shared begin;        /* as dispatch leaves it */
    ellm_shared routed;       /* rows of a panel by routed position */
    ellm_int n;               /* width of out */
    ellm_int activation;      /* 0: silu(gate) * up; 1: g = min(gate, limit), u = clamp(up, -limit, limit),
                                 (u + 1) * g * sigmoid(alpha * g) */
    ellm_real limit;
    ellm_real alpha;
    ellm_shared out;          /* by routed position: rows of a bf16 panel, or f32 [chunk * top_k, n] */
    ellm_int out_bf16;
} ellm_expert_gate_up;

/* linear of one expert (task->block) on its routed rows; tasks as of expert_gate_up. */
typedef struct ellm_expert_down {
    ELLM_MATMUL               /* x: -1, the rows are in `routed`, if f32 x_stride apart */
    ellm_int bank_stride;
    ellm_int bias_stride;
    ellm_shared begin;
    ellm_shared routed;       /* as expert_gate_up leaves it: f32 if multiplied in whole numbers */
    ellm_int n;
    ellm_shared out;          /* f32 [chunk * top_k, n] by routed position */
} ellm_expert_down;

/* out[r] = residual[r] + sum over j, ascending, of weights[row, j] * y[position[row, j]]. ceil(n / task_columns) tasks. */
typedef struct ellm_combine {
    ellm_buffer residual;     /* f32 [rows, n]; -1: none; may be out */
    ellm_shared y;            /* f32 [chunk * top_k, n] */
    ellm_shared weights;      /* f32 [chunk, top_k] */
    ellm_shared position;     /* i32 [chunk, top_k] */
    ellm_int top_k;
    ellm_int n;
    ellm_int task_columns;
    ellm_buffer out;          /* f32 [rows, n] */
} ellm_combine;

/* Chooses the next token of one logit row. Task = logit row of the block. Sampled tokens and their log probabilities go to
 * step->sampled and step->logprob. */
typedef struct ellm_sample {
    ellm_int vocab;
} ellm_sample;

/* Reads its share of a region as fast as it can, to measure what reading weights can reach: task i reads
 * [i * bytes, (i + 1) * bytes). `tasks` tasks. */
typedef struct ellm_probe_read {
    ellm_weight memory;       /* 64-byte aligned, tasks * bytes long */
    ellm_int bytes;           /* a multiple of streams KiB */
    ellm_int streams;         /* parts of the share that are read side by side: 1, 4 or 8 */
    ellm_int ahead;           /* bytes that software prefetch runs ahead in each stream; 0: none */
    ellm_int tiles;           /* 1: by AMX tile loads, where there are any */
    ellm_int tasks;
} ellm_probe_read;

/* Multiplies bf16 in registers (AMX: tiles from L1), to measure what matmul can reach: `repeats` times
 * ELLM_PROBE_FLOPS floating-point operations a task. `tasks` tasks. */
#define ELLM_PROBE_FLOPS 196608
typedef struct ellm_probe_matmul {
    ellm_int repeats;
    ellm_int tasks;
} ellm_probe_matmul;

#endif
