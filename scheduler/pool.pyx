"""Pinned workers, and programs made ready to run on them."""

import threading
from contextlib import contextmanager

import cython
import numpy as np

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport getpid, pid_t

from ellm.kernels.task cimport ellm_kernel, ellm_step
from ellm.scheduler.zeroed_pages cimport HUGE, Pages
from ellm.scheduler.rings cimport Rings
from ellm.scheduler.tables cimport StepTables
from ellm.scheduler.threads cimport clock_ticks, load_relaxed, load_word, pthread_join, pthread_t, start_thread
from ellm.scheduler.worker cimport (
    LOG_END,
    RECORD_PREPARE,
    RECORD_STEP,
    ROWS_OF_BLOCK,
    ROWS_OF_EXPERT,
    ROWS_OF_LOGITS,
    ROWS_OF_STEP,
    Berth,
    Dynamic,
    Event,
    Group,
    Plan,
    PoolState,
    ProgramState,
    Stream,
    Tally,
    Thread,
    Wake,
    WorkerState,
    ask_to_follow,
    await_step,
    follow,
    hold,
    open_step,
    record,
    stop_workers,
    worker_main,
)

from ellm.kernels.contract import ARGS_BYTES, FIELDS, unpack
from ellm.kernels.formats import NUMBERED
from ellm.kernels.layout import memory
from ellm.kernels.reference_task import norm
from ellm.system.errors import InputError
from ellm.scheduler import topology
from ellm.scheduler.following import following
from ellm.scheduler.placement import AUTO, Placement, place
from ellm.scheduler.program import Kind
from ellm.scheduler.spans import Trace

PAGE = 4096


class StepError(RuntimeError):
    """A kernel failed in a step: its error `code` and the name of its operator."""

    def __init__(self, code: int, op: str):
        super().__init__(f"{op}: the kernel failed with code {code}")
        self.code, self.op = code, op


@cython.no_gc_clear
cdef class Pool:
    """Worker threads that run the steps of programs one at a time and sleep in between.

    threads: how many; None: as many as `place` finds cores for.
    pin: the cores that they are pinned to, as `place` takes it.
    cores: these instead, which no other process is told of; a core named twice gets two workers.
    Raises InputError for more threads than are allowed or for a core outside of the affinity mask.
    """

    cdef readonly object placement
    cdef readonly object crews
    cdef object lock
    cdef int wanted  # who wait for the lock: no step follows another meanwhile
    cdef list arrays  # that the state points to
    cdef PoolState *state
    cdef Thread *threads_
    cdef pthread_t *handles
    cdef int started
    cdef pid_t process  # whose threads the workers are
    cdef Pages pages

    def __init__(self, threads=None, *, pin=AUTO, cores=None):
        self.placement = place(threads, pin) if cores is None else Placement([int(core) for core in cores])
        outside = set(self.cores) - set(topology.allowed_cores())
        if outside or not self.cores:
            raise InputError(f"cores: {self.cores} asked for, the affinity mask allows {topology.allowed_cores()}")
        self.crews = topology.crews(self.cores)
        self.process = getpid()
        self.lock = threading.Lock()
        cdef int count = len(self.cores)
        cdef size_t berths = self.crews.count * sizeof(Berth)
        self.pages = Pages(berths + sizeof(PoolState) + count * (sizeof(Thread) + sizeof(pthread_t)), "pool")
        self.state = <PoolState *>(self.pages.base + berths)
        self.state.berths = <Berth *>self.pages.base
        self.threads_ = <Thread *>(self.state + 1)
        self.handles = <pthread_t *>(self.threads_ + count)
        self.state.workers = count
        self.state.state = 1ULL << 31
        self.fill_crews()
        self.state.spin_ns, self.state.linger_ns = self.placement.spin_ns, self.placement.linger_ns
        self.state.fetch_bytes = topology.l2_bytes(self.cores[0]) // 2
        cdef int error
        for i in range(count):
            self.threads_[i].pool = self.state
            self.threads_[i].index = i
            name = f"ellm-{i}".encode()
            core = self.cores[i] if self.pinned else -1
            error = start_thread(&self.handles[i], worker_main, &self.threads_[i], core, name)
            if error:
                self.close()
                raise OSError(error, f"cannot start a worker on core {core}")
            self.started += 1

    cdef fill_crews(self):
        crews = self.crews
        self.arrays = [np.ascontiguousarray(part, np.int32) for part in (crews.begin, crews.order, crews.of_worker, crews.node)]
        self.state.crews = crews.count
        self.state.crew_begin = <const int32_t *><size_t>self.arrays[0].ctypes.data
        self.state.crew_order = <const int32_t *><size_t>self.arrays[1].ctypes.data
        self.state.crew_of = <const int32_t *><size_t>self.arrays[2].ctypes.data
        self.state.node_of = <const int32_t *><size_t>self.arrays[3].ctypes.data

    @property
    def cores(self):
        """The core of each worker; if they are not pinned, one that it may be on."""
        return self.placement.cores

    @property
    def pinned(self):
        """Whether each worker stays on its core."""
        return self.placement.pinned

    @property
    def threads(self):
        """Number of workers."""
        return len(self.cores)

    def load(self, program, table, weights_address=0):
        """Make a program ready to run with the kernels of `table`, its weights at `weights_address`."""
        return LoadedProgram(self, program, table, weights_address)

    def hold(self):
        """Have the step that is under way be the last of its run, unless another one has begun. Never blocks."""
        hold(self.state)

    @contextmanager
    def between_steps(self):
        """Run no step meanwhile; waits for the one that is under way."""
        self.wanted += 1
        self.hold()
        try:
            self.lock.acquire()
        finally:
            self.wanted -= 1
        try:
            yield
        finally:
            self.lock.release()

    def close(self):
        """Stop the workers, of which a fork has none, once their step has ended. Nothing can be run afterwards."""
        with self.between_steps():
            with nogil:
                self.end_workers()
        self.placement.claim.close()

    cdef void end_workers(self) noexcept nogil:
        if self.process != getpid():
            return
        if self.started:
            stop_workers(self.state)
        while self.started:
            self.started -= 1
            pthread_join(self.handles[self.started], NULL)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __dealloc__(self):
        self.end_workers()


include "loaded_program.pxi"
