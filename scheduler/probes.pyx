"""Kernels that compute nothing: they stand in for real ones in the scheduler's tests and benchmark.

`empty` does nothing. `slow` keeps its core busy for `ns` nanoseconds in each of its tasks `first` to `last`. `fail`
stores `code` as its error in task `first`. `stamp` keeps its core busy and writes its begin and end to `marks`. `trail`
leaves a mark: it checks that every task that its group depends on has left its own in this step, and counts in `faults`
those that have not. `choose` writes a list of experts and their counts to the arena, as routing does; with `marks` it
is a trail too.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

from ellm.kernels.task cimport ellm_task
from ellm.scheduler.threads cimport clock_ns, fetch_add


cdef struct Args:  # ARGS_BYTES at most
    int64_t first
    int64_t last
    int64_t ns
    int64_t code
    int64_t *marks  # trail: [tasks of all groups] step number in which a task ran last; stamp: [tasks, 2] ns
    const int64_t *extents  # trail: [groups] tasks in this step
    const int64_t *offsets  # trail: [groups] first mark of each group
    const int32_t *sources  # trail: groups that this one depends on
    int64_t source_count
    int64_t group
    uint64_t *faults  # atomic
    int64_t expert  # trail: 0, or 1 + the number of the expert whose group this is
    int64_t experts  # choose: how many there are
    const int32_t *choice  # choose: [1 + experts] how many are hit, and which, and [experts] counts
    int64_t list  # choose: offset in the arena to which the first part goes
    int64_t counts  # choose: offset in the arena to which the second part goes


cdef void empty(const ellm_task *task) noexcept nogil:
    pass


cdef void slow(const ellm_task *task) noexcept nogil:
    cdef const Args *args = <const Args *>task.args
    cdef int64_t end = clock_ns() + args.ns
    if args.first <= task.index <= args.last:
        while clock_ns() < end:
            pass


cdef void fail(const ellm_task *task) noexcept nogil:
    cdef const Args *args = <const Args *>task.args
    if task.index == args.first:
        task.error[0] = <int32_t>args.code


cdef void stamp(const ellm_task *task) noexcept nogil:
    cdef const Args *args = <const Args *>task.args
    cdef int64_t *mark = &args.marks[2 * task.index]
    mark[0] = clock_ns()
    while clock_ns() < mark[0] + args.ns:
        pass
    mark[1] = clock_ns()


cdef void trail(const ellm_task *task) noexcept nogil:
    cdef const Args *args = <const Args *>task.args
    cdef int64_t i, j
    cdef int64_t *mark = &args.marks[args.offsets[args.group] + task.index]
    cdef const int64_t *marks
    cdef uint64_t faults = mark[0] == task.step.number  # run twice
    mark[0] = task.step.number
    if args.expert:
        faults += task.block != args.expert - 1
        faults += task.section != task.arena
        faults += task.row != 0 or task.rows != 0
    for i in range(args.source_count):
        marks = &args.marks[args.offsets[args.sources[i]]]
        for j in range(args.extents[args.sources[i]]):
            faults += marks[j] != task.step.number
    if faults:
        fetch_add(args.faults, faults)


cdef void choose(const ellm_task *task) noexcept nogil:
    cdef const Args *args = <const Args *>task.args
    memcpy(task.arena + args.list, args.choice, (1 + args.choice[0]) * sizeof(int32_t))
    memcpy(task.arena + args.counts, args.choice + 1 + args.experts, args.experts * sizeof(int32_t))
    if args.marks:
        trail(task)


cdef uint64_t entered, left  # atomic


cdef void enter() noexcept nogil:
    fetch_add(&entered, 1)


cdef void leave() noexcept nogil:
    fetch_add(&left, 1)


def visits():
    """How often workers have entered and left."""
    return entered, left


ARGS = (
    "first", "last", "ns", "code", "marks", "extents", "offsets", "sources", "source_count", "group", "faults",
    "expert", "experts", "choice", "list", "counts",
)
ADDRESSES = {
    "empty": <size_t>&empty,
    "slow": <size_t>&slow,
    "fail": <size_t>&fail,
    "stamp": <size_t>&stamp,
    "trail": <size_t>&trail,
    "choose": <size_t>&choose,
}
ENTER = <size_t>&enter
LEAVE = <size_t>&leave
