"""C declarations of tables.pyx."""

from libc.stdint cimport int32_t, int64_t

from ellm.kernels.task cimport ellm_attend_item, ellm_merge_item, ellm_step

cdef struct Run:  # consecutive rows of one sequence within one row block
    int32_t row
    int32_t rows
    int32_t slot
    int32_t position

cdef struct Extent:  # of the keys that a run sees, in whole leaves
    int64_t first
    int64_t last
    int64_t units  # into which they are cut
    int64_t level  # whether these are leaves, spans or all

cdef struct Cut:
    int64_t level
    int64_t head_parts  # tasks for the query heads of a KV head
    int64_t merge_parts  # tasks for all heads of a run

cdef class StepTables:
    cdef readonly object program
    cdef readonly object tokens, positions, slots, ranges, blocks, logit_row
    cdef readonly object logits, sampling, sampled, logprob, input_rows
    cdef readonly object counts  # int32 [kinds, blocks]
    cdef readonly list item_begin, merge_begin  # one int32 [blocks + 1] per window class
    cdef list all_items, all_merges  # one array per window class, of which a step uses the first ones
    cdef object run_memory, run_begins, seen, based, block_offsets
    cdef ellm_step record  # everything but the number and the partials
    cdef int32_t *count  # counts
    cdef Run *runs
    cdef int32_t *run_begin  # [row_blocks + 1]
    cdef int64_t row_blocks, row_block, kinds, classes, chunk, vocab, context
    cdef int64_t most_rows, fewest_rows, least_runs, partials, fills, domains
    cdef int64_t workers, kv_heads, fold_heads, head_parts, most_items
    cdef list windows, most_tiles

    cdef ellm_step *fill_step(self, step) except NULL
    cdef int read(self, step) except -1
    cdef int find_blocks(self, step) except -1
    cdef int check_order(self) except -1
    cdef void count_rows(self) noexcept
    cdef void cut_rows(self) noexcept
    cdef void cut_attention(self)
    cdef Cut best_cut(self, int64_t window) noexcept
    cdef double work(self, int64_t window, Cut *cut) noexcept
    cdef int64_t cut_runs(self, int64_t window, int64_t c, int64_t block, int64_t free, Cut cut) noexcept
    cdef ellm_attend_item *add_items(
        self, ellm_attend_item *item, const Run *run, Extent extent, int64_t free, int64_t parts, int64_t home
    ) noexcept
    cdef int check_tasks(self) except -1
