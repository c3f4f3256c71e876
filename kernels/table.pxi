# Included by the extension of each ISA after its tile functions: every kernel, by kernels.pxi, and `run`.

from libc.stdint cimport int32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from ellm.kernels.task cimport *
from ellm.kernels.vector cimport *

cdef extern from "fetch.h" nogil:
    bint fetch_near
    void fetch_set(bint near)

include "matmul.pxi"
include "encode.pxi"
include "kernels.pxi"


cdef void enter() noexcept nogil:
    tile_enter()


cdef void leave() noexcept nogil:
    tile_leave()


ENTER = <uintptr_t> &enter
LEAVE = <uintptr_t> &leave
FETCHES = "L1" if fetch_near else "L2"


def fetch_into_l1(bint near):
    """Fetch as CPUs do for which that pays, or as others; for tests of both on one CPU. In vain where fetch.h has no choice."""
    fetch_set(near)


def run(str kernel, uintptr_t args, uintptr_t step, uintptr_t arena, uintptr_t scratch, *, int64_t section_bytes,
        int row_block, int block, int rows, int index, int count=1):
    """Run tasks index .. index + count - 1 of an operator on one row block in this thread, without the GIL.

    args, step, arena and scratch are addresses. Returns the first nonzero error code that a kernel left, or 0.
    """
    cdef ellm_kernel function = <ellm_kernel> <uintptr_t> ADDRESSES[kernel]
    cdef int32_t error = 0
    cdef ellm_task task
    cdef int i
    task.args = <const void *> args
    task.step = <const ellm_step *> step
    task.arena = <char *> arena
    task.section = <char *> arena + block * section_bytes
    task.section_bytes = section_bytes
    task.scratch = <char *> scratch
    task.error = &error
    task.row_block = row_block
    task.block = block
    task.row = block * row_block
    task.rows = rows
    task.worker = 0
    with nogil:
        tile_enter()
        for i in range(count):
            task.index = index + i
            function(&task)
            if error:
                break
        tile_leave()
    return error
