"""C declarations of tables.pyx."""

from libc.stdint cimport int32_t, int64_t

from ellm.kernels.task cimport ellm_attend_item, ellm_merge_item, ellm_step

cdef struct Run:  # consecutive rows of one sequence within one row block
    int32_t row
    int32_t rows
    int32_t slot
    int32_t position

cdef class StepTables:
    cdef readonly object program
    cdef readonly object tokens, positions, slots, ranges, blocks, logit_row
    cdef readonly object logits, sampling, sampled, logprob
    cdef readonly object counts  # int32 [kinds, blocks]
    cdef readonly list item_begin, merge_begin  # one int32 [blocks + 1] per window class
    cdef list all_items, all_merges  # one array per window class, of which a step uses the first ones
    cdef object run_memory, seen, based, block_offsets
    cdef ellm_step record  # everything but the number and the partials
    cdef int32_t *count  # counts
    cdef Run *runs  # of one row block
    cdef int64_t row_blocks, row_block, kinds, classes, chunk, vocab, context
    cdef int64_t most_rows, fewest_rows, least_runs, partials, fills, domains
    cdef list windows, most_tiles

    cdef ellm_step *fill_step(self, step) except NULL
    cdef int read(self, step) except -1
    cdef int find_blocks(self, step) except -1
    cdef int check_order(self) except -1
    cdef void count_rows(self) noexcept
    cdef int64_t cut_block(self, int64_t block) noexcept
    cdef void cut_attention(self)
    cdef int64_t cut_runs(
        self, int64_t count, int64_t window, int64_t c, int64_t block, int64_t free, bint cut
    ) noexcept
    cdef int check_tasks(self) except -1
    cdef int32_t active(self, int64_t kind) noexcept nogil
