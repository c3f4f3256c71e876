# Included by the extension of each ISA after its tile functions: every kernel, the table of their addresses, and `run`.

from libc.stdint cimport int32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from ellm.kernels.task cimport *
from ellm.kernels.vector cimport *

include "matmul.pxi"
include "embed.pxi"
include "angles.pxi"
include "gather.pxi"
include "rms_norm.pxi"
include "linear.pxi"
include "logits.pxi"
include "gate_up.pxi"
include "qkv.pxi"
include "head_linear.pxi"
include "expert_gate_up.pxi"
include "expert_down.pxi"
include "rope.pxi"
include "append.pxi"
include "expand_latent.pxi"
include "attend.pxi"
include "merge.pxi"
include "copy.pxi"
include "route.pxi"
include "dispatch.pxi"
include "combine.pxi"
include "swiglu.pxi"
include "add.pxi"
include "sample.pxi"
include "probe.pxi"


cdef void enter() noexcept nogil:
    tile_enter()


cdef void leave() noexcept nogil:
    tile_leave()


ADDRESSES = {
    "embed": <uintptr_t> &embed,
    "angles": <uintptr_t> &angles,
    "gather": <uintptr_t> &gather,
    "rms_norm": <uintptr_t> &rms_norm,
    "linear": <uintptr_t> &linear,
    "logits": <uintptr_t> &logits,
    "gate_up": <uintptr_t> &gate_up,
    "qkv": <uintptr_t> &qkv,
    "head_linear": <uintptr_t> &head_linear,
    "expert_gate_up": <uintptr_t> &expert_gate_up,
    "expert_down": <uintptr_t> &expert_down,
    "rope": <uintptr_t> &rope,
    "append": <uintptr_t> &append,
    "expand_latent": <uintptr_t> &expand_latent,
    "attend": <uintptr_t> &attend,
    "merge": <uintptr_t> &merge,
    "copy": <uintptr_t> &copy,
    "route": <uintptr_t> &route,
    "dispatch": <uintptr_t> &dispatch,
    "combine": <uintptr_t> &combine,
    "swiglu": <uintptr_t> &swiglu,
    "add": <uintptr_t> &add,
    "sample": <uintptr_t> &sample,
    "probe_read": <uintptr_t> &probe_read,
    "probe_matmul": <uintptr_t> &probe_matmul,
}
ENTER = <uintptr_t> &enter
LEAVE = <uintptr_t> &leave

SIZES = {
    "embed": sizeof(ellm_embed),
    "angles": sizeof(ellm_angles),
    "gather": sizeof(ellm_gather),
    "rms_norm": sizeof(ellm_rms_norm),
    "linear": sizeof(ellm_linear),
    "logits": sizeof(ellm_logits),
    "gate_up": sizeof(ellm_gate_up),
    "qkv": sizeof(ellm_qkv),
    "rope": sizeof(ellm_rope),
    "append": sizeof(ellm_append),
    "expand_latent": sizeof(ellm_expand_latent),
    "attend": sizeof(ellm_attend),
    "merge": sizeof(ellm_merge),
    "swiglu": sizeof(ellm_swiglu),
    "add": sizeof(ellm_add),
    "copy": sizeof(ellm_copy),
    "head_linear": sizeof(ellm_head_linear),
    "route": sizeof(ellm_route),
    "dispatch": sizeof(ellm_dispatch),
    "expert_gate_up": sizeof(ellm_expert_gate_up),
    "expert_down": sizeof(ellm_expert_down),
    "combine": sizeof(ellm_combine),
    "sample": sizeof(ellm_sample),
    "probe_read": sizeof(ellm_probe_read),
    "probe_matmul": sizeof(ellm_probe_matmul),
    "attend_item": sizeof(ellm_attend_item),
    "merge_item": sizeof(ellm_merge_item),
    "sampling": sizeof(ellm_sampling),
    "step": sizeof(ellm_step),
    "task": sizeof(ellm_task),
}


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
