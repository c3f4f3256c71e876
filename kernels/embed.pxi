# embed: the rows of the embedding table for the tokens of a block.
#
#   out[r, :] = table[:, tokens[row + r]] * scale          f32 [rows, width]
#
# `table` is a packed weight [n_tiles][k_tiles] of any format with n = token and k = element, as a tied head reads it.
# A token outside [0, vocab) is an error; its row is left as it was. 1 task.

cdef enum:
    ERROR_TOKEN = 1  # a token that is not in the vocabulary


cdef void embed(const ellm_task *task) noexcept nogil:
    cdef const ellm_embed *op = <const ellm_embed *> task.args
    cdef const char *column
    cdef float *out
    cdef float scale = <float> op.scale
    cdef int64_t token, i
    cdef int32_t row
    for row in range(task.rows):
        token = task.step.tokens[task.row + row]
        if token < 0 or token >= op.vocab:
            task.error[0] = ERROR_TOKEN
            continue
        column = <const char *> op.table + token // ELLM_TILE_N * column_bytes(op.format, op.k_tiles)
        out = <float *> (task.section + op.out) + row * op.width
        for i in range(op.width):
            out[i] = expand_element(column, op.format, token % ELLM_TILE_N, i) * scale
