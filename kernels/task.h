/* The ABI between scheduler and kernels.
 *
 * A kernel is `void kernel(const ellm_task *)`. Its operator's arguments are the struct `ellm_<kernel>` of arguments.h, the
 * only place where their layout is written: contract.py reads both files to pack them. Every argument field is 8 bytes, and
 * its type says what it is:
 *   ellm_int     a count or a flag
 *   ellm_real    a scalar
 *   ellm_buffer  byte offset of an activation in the row block's section of the arena; -1 = absent
 *   ellm_weight  address of packed weights or a constant; NULL = absent
 *   ellm_range   byte offset in a sequence's KV range, or in each block of it: cache_block of cache.h adds them up
 *   ellm_shared  byte offset in the arena of memory that all row blocks share: routed rows; -1 = absent
 *
 * Layouts.
 *   Activation row: f32, or bf16 whose row stride is a multiple of 32 elements and whose pad the producer zeroes.
 *   Weight tile: B[32 k][16 n] as 16 rows of k pairs, `tile[k / 2][n][k % 2]`; 1 KiB of bf16. A packed weight is
 *   [n_tiles][k_tiles] tiles, zero padded, so column tile n is one contiguous run over k; format.py says what other
 *   formats have in a tile, and what more there is.
 *   Positions of a sequence lie in blocks of S = ELLM_SPLIT, each with the keys and values of all layers: a split of the
 *   context is one run of a block. In a block,
 *   keys of one KV head:   [S/16][ceil(d/32)] tiles: B[d][s], so a key block is a weight with n = s, k = d;
 *   values of one KV head: [S/32][ceil(d/16)] tiles: B[s][d], k = s, n = d.
 *   The same in int8: tiles of bytes, and behind those of 16 keys or 32 values their scales, f32 [16] or [32]: a position's
 *   numbers of a head are codes times its scale, max |x| / 127. Keys are turned before that: by a Hadamard matrix / sqrt(d).
 */
#ifndef ELLM_TASK_H
#define ELLM_TASK_H
#include <stdint.h>
#include "formats.h"

#define ELLM_TILE_N 16       /* columns of a tile: one AMX tile of 16 rows of 64 bytes */
#define ELLM_TILE_K 32       /* k of a tile */
#define ELLM_TILE (ELLM_TILE_N * ELLM_TILE_K)
#define ELLM_TILE_PAIRS (ELLM_TILE_K / 2) /* rows of a tile, each a pair of k of every column */
#define ELLM_TILE_ROW (2 * ELLM_TILE_N)   /* elements of such a row */
#define ELLM_SPLIT 512       /* positions of a block of the caches: absolute boundaries, fixed for ever */
#define ELLM_LEAF 256        /* keys of a leaf of the context in the first span, so that short contexts have tasks enough; */
#define ELLM_SPAN 4096       /* in later ones it has ELLM_SPLIT. Keys of a span, whose leaves are merged before spans are */
#define ELLM_ARGS 256        /* bytes reserved for an operator's arguments */
#define ELLM_FOLD 256        /* most query rows (positions x heads of a KV group) folded into one attend task */
#define ELLM_INT16 1         /* what activations are multiplied as, if not in bf16 */
#define ELLM_INT8 2
#define ELLM_CACHE_DIMS 512  /* most dims of a head whose keys and values are int8 */
#define ELLM_EXPERT_ROWS 256 /* most rows of an expert that a task multiplies, for which a weight is read and expanded once; of
                                more, AMX would read the rows themselves from the last level cache for each few columns */
#define ELLM_PIECE 4         /* step rows of a task that works on pieces of a step */
#define ELLM_EXPAND 98304    /* bytes of scratch in which a part of a weight is expanded, and sums of whole numbers are carried */

typedef uint16_t ellm_bf16;
typedef int64_t ellm_int;
typedef double ellm_real;
typedef int64_t ellm_buffer;
typedef const void *ellm_weight;
typedef int64_t ellm_range;
typedef int64_t ellm_shared;

/* A run of consecutive positions of one sequence and a part of the query heads, whose attention to the leaves in
 * [key_begin, key_end) is one task per KV head. */
typedef struct ellm_attend_item {
    int32_t row;          /* first step row */
    int32_t rows;
    int32_t slot;
    int32_t position;     /* position of the first row */
    int32_t key_begin;    /* where a leaf begins, and another ends: no key that a row sees need be in any of them */
    int32_t key_end;
    int32_t partial;      /* -1: merge all here and write the output; else index of the partials of row 0 */
    int32_t units;        /* partials of a row: of leaves, or of spans */
    int32_t unit;         /* that of the first leaf, or of the span */
    int32_t folded;       /* 1: the leaves are of one span and are merged here to one partial; 0: each has its own */
    int32_t head_part;    /* of the query heads of each KV head, cut into head_parts */
    int32_t head_parts;
} ellm_attend_item;

/* Rows and a part of the heads whose partials are to be merged in one task: of row r from partial + r * units on. */
typedef struct ellm_merge_item {
    int32_t row;
    int32_t rows;
    int32_t partial;
    int32_t units;        /* of which the first `first_units` are of one span, each `span_units` behind them of another */
    int32_t first_units;
    int32_t span_units;
    int32_t head_part;
    int32_t head_parts;
} ellm_merge_item;

/* A token and a number that belongs to it: what is added to its logit, or its log probability. */
typedef struct ellm_token_number {
    int32_t token;
    float number;
} ellm_token_number;

/* How to choose the next token of one logit row; a field that is 0 changes nothing. */
typedef struct ellm_sampling {
    double temperature;      /* 0: argmax */
    double top_p;            /* 1: off */
    double min_p;            /* 0: off */
    double repeat_penalty;   /* 1: off */
    double presence_penalty;
    double frequency_penalty;
    int64_t top_k;           /* 0: off */
    uint64_t seed;
    int64_t counter;         /* position of the sampled token: seed and counter decide the draw */
    const int32_t *history;  /* tokens that the penalties apply to */
    int64_t history_len;
    int64_t prompt_len;      /* of these the first, which presence and frequency leave out */
    const uint32_t *mask;    /* [(vocab + 31) / 32] a bit for each token that is allowed; NULL: all are */
    const ellm_token_number *bias; /* [bias_len] added to logits */
    int64_t bias_len;
    const int32_t *given;    /* the token that is taken, whatever the logits; NULL: one is drawn */
    const int32_t *ready;    /* 0 until mask and given are there; NULL: they are. Others set it while the step runs */
    ellm_token_number *top;  /* [top_len] written: the most likely tokens, the first one first */
    int64_t top_len;         /* at most vocab */
} ellm_sampling;

#define ELLM_WINDOWS 4  /* most distinct attention windows in a model */

/* One step's rows, written before it starts and read-only within it. */
typedef struct ellm_step {
    int64_t number;               /* 1, 2, ...; never repeats within one executable */
    int64_t rows;
    int64_t logit_rows;
    int64_t sample_rows;          /* 0, or logit_rows */
    const int32_t *tokens;        /* [rows] */
    const int32_t *positions;     /* [rows] */
    const int32_t *slots;         /* [rows] */
    const float *input_rows;      /* [rows, width], of programs that read some; else NULL */
    char *const *ranges;          /* [slots] base of each sequence's KV range */
    char *const *blocks;          /* [slots][context_blocks] addresses of the blocks of each sequence's positions */
    int64_t context_blocks;
    const int32_t *logit_row;     /* [logit_rows] step rows that want logits, ascending */
    float *logits;                /* [logit_rows, vocab] */
    const ellm_sampling *sampling;/* [logit_rows] */
    int32_t *sampled;             /* [logit_rows] */
    float *logprob;               /* [logit_rows] log softmax(logits)[sampled] */
    float *partials;              /* of `units` of a row [heads][units][value_dim + 2]: numerator, max, sum; row after row */
    const ellm_attend_item *items[ELLM_WINDOWS];
    const int32_t *item_begin[ELLM_WINDOWS];   /* [blocks + 1] first item of each row block */
    const ellm_merge_item *merges[ELLM_WINDOWS];
    const int32_t *merge_begin[ELLM_WINDOWS];  /* [blocks + 1] */
} ellm_step;

typedef struct ellm_task {
    const void *args;         /* the operator's ellm_<kernel> */
    const ellm_step *step;
    char *arena;
    char *section;            /* arena + block * section_bytes */
    int64_t section_bytes;
    char *scratch;            /* this worker's, 64-byte aligned; see panel.h */
    int32_t *error;           /* a kernel that fails stores a nonzero code here */
    int32_t row_block;        /* rows in a full row block */
    int32_t block;            /* number of this row block; of an expert's groups: the expert */
    int32_t row;              /* its first row: block * row_block */
    int32_t rows;             /* rows present in this block: step rows, or logit rows for logits and sampling */
    int32_t index;            /* number of this task in its group */
    int32_t worker;
} ellm_task;

typedef void (*ellm_kernel)(const ellm_task *);

#include "arguments.h"

#endif
