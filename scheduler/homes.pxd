"""Where tasks are at home: which of a group's tasks a worker owns before anybody steals."""

from libc.stdint cimport int64_t

cdef enum:
    READ_ROWS = 64  # of an expert, of as much work as to read its weights


cdef inline int64_t home_begin(
    int64_t tasks, int64_t before, int64_t total, int64_t worker, int64_t workers, int64_t first, int64_t end
) noexcept nogil:
    """The first of a group's tasks at home with a worker of the node [first, end); its last is before that of `worker` + 1.

    Each node gets its share of the tasks, in order, so that what it reads lies in its own memory. In a node a group is
    dealt out together with others that run beside it: of as much work as `total` tasks of its own (these are among it)
    comes `before` before them. So a worker has many tasks of few groups, not some of each, whose rows it would all have to prepare.
    """
    cdef int64_t place = total * (worker - first) - (end - first) * before
    return (first * tasks + min(max(place, 0), (end - first) * tasks)) // workers


cdef inline int64_t expert_work(int64_t rows, int64_t row_tiles) noexcept nogil:
    """What an expert is of the work of all, in rows: each row tile reads the weights anew."""
    return READ_ROWS * row_tiles + rows


cdef inline bint deals_together(int64_t experts, int64_t workers) noexcept nogil:
    """Whether experts are dealt out together to a node of so many workers: if each can have one of its own.

    Of fewer, whose second groups come one by one, all workers are wanted for each.
    """
    return experts >= workers
