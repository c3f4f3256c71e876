"""What the workers of a pool share, and what each has for itself.

Words with several parts, all in one uint64:
    PoolState.state       round 32 | closed 1 | active workers 31
    Tally.counted         generation 32 | tasks that have run
    Tally.empty           generation 32 | low half of Tally.told when nothing was left to steal
    ProgramState.log[i]   generation 32 | group + 1 (LOG_END ends the step)
    ProgramState.slices   generation 24 | begin 20 | end 20
    Event.count           generation 32 | signals
PoolState.successor is an address instead.
A generation stands for one step of the program, so a word of an earlier step is recognised and nothing is reset.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ellm.kernels.task cimport ellm_kernel, ellm_step, ellm_task

cdef enum:
    TASK_BITS = 20
    GENERATIONS = 0xFFFFFF  # generations run from 1 to this
    LOG_END = 0xFFFFFFFF  # the log entry after which a step has no more
    ROWS_OF_STEP = 0
    ROWS_OF_LOGITS = 1
    ROWS_OF_EXPERT = 2  # the block is no row block but the number of an expert, whose rows only its kernel knows
    ROWS_OF_BLOCK = 3  # as ROWS_OF_STEP, all of those of its row block, like the groups of the others

cdef struct ProgramState
cdef struct WorkerState

cdef struct Deal:  # of a group's tasks, as home_begin takes it
    uint32_t tasks
    uint32_t before  # of what is dealt out together with them, in tasks of as much work: what comes before them,
    uint32_t total  # and all

cdef struct Group:  # one cache line, which only its publisher writes, of an expert also who wakes it
    ellm_kernel kernel
    const int32_t *count  # how many times `tiles` tasks it has in this step; of an expert, rows
    Deal deal  # set by the publisher, or by who wakes experts
    int32_t op
    int32_t block
    int32_t tiles
    int32_t rows  # what the block counts: ROWS_OF_*
    int32_t completes_empty
    int32_t signals_begin
    int32_t signals_end
    int32_t next  # group whose weights a worker that waits after this one may prefetch, or -1
    int32_t wake  # index in wakes, or -1

cdef struct Tally:  # of a group, or of the tasks of it that were given to one crew; one cache line
    uint64_t counted  # atomic
    uint64_t empty  # atomic: spares others a look, while nobody tells
    uint64_t told  # atomic: how often somebody had stolen tasks that others can steal
    char pad[40]

cdef struct Berth:  # where a crew sleeps; one cache line
    uint32_t signal  # futex: changes when there may be work for sleepers
    uint32_t sleepers  # atomic
    uint32_t relay  # atomic: how many more the next one to wake is to wake
    char pad[52]

cdef struct Event:  # one cache line
    uint64_t count  # atomic
    uint32_t needed  # this step
    int32_t publishes_begin
    int32_t publishes_end
    int32_t triggers_begin
    int32_t triggers_end
    char pad[36]

cdef struct Wake:  # the groups first + list[1] .. first + list[list[0]] are published when a group is done
    const int32_t *list
    int32_t first
    int32_t then  # after group first + i comes group then + i
    int32_t join  # event that they all signal
    const char *watched  # while records are made, copied when the group is done,
    char *copy  # [2, bytes]: to the half that has the parity of the step's number
    int64_t bytes  # 0: nothing is

cdef struct Dynamic:  # an event that gets one more signal for each block whose count of a kind is not 0
    int32_t event
    int32_t needed
    int32_t kind

cdef struct Stream:  # the weights that an operator's tasks read one after the other
    const char *weights  # NULL: none
    int64_t task_bytes
    int64_t expert_bytes  # from one expert's weights to the next; 0: the block is a row block

cdef enum:  # of PoolState.successor, beside the address of a program
    NOBODY = 0  # nobody has asked for a step to follow
    TOO_LATE = 1  # nobody can: the step has ended

cdef struct PoolState:
    uint64_t state  # atomic
    char pad0[56]
    uint32_t finished  # futex: round whose workers have all left
    uint32_t begun  # the last round, as told before `finished`
    uint32_t stop  # atomic
    char pad1[52]
    uint64_t successor  # atomic: the program of which a step is to follow with the end of this one
    char pad2[56]
    int64_t ended_ns[2]  # when the last rounds did, by their parity
    ProgramState *program  # that of the current round
    Berth *berths  # [crews]
    const int32_t *crew_begin  # [crews + 1]: the workers of each
    const int32_t *crew_order  # [crews, crews]: for each all of them, the nearest first
    const int32_t *crew_of  # [workers]
    const int32_t *node_of  # [workers, 2]: the first worker of its node, and behind the last
    int64_t spin_ns  # how long a worker watches before it sleeps in a step,
    int64_t linger_ns  # and between two steps
    int64_t fetch_bytes  # most that a worker which waits fetches of what it will read
    int32_t workers
    int32_t crews

cdef struct Plan:  # of the next step
    ellm_step step
    const int32_t *counts  # of its tables
    const int32_t *ends  # [rows, ends_each]: if it follows at once, it does not begin if a row has drawn one of these
    int64_t ends_each

cdef struct ProgramState:
    PoolState *pool
    Plan plan
    Group *groups
    Event *events
    int32_t *counts  # [kinds, blocks] of this step: what groups and dynamic events count
    const Dynamic *dynamic
    const int32_t *roots
    const int32_t *signals
    const int32_t *publishes
    const int32_t *triggers
    Wake *wakes
    const Stream *streams
    const char *args
    int64_t args_bytes
    int32_t group_count
    int32_t event_count
    int32_t end
    int32_t kinds
    int32_t blocks
    int32_t dynamic_count
    int32_t root_count
    int32_t row_block
    int32_t row_blocks  # of this step
    char *arena
    int64_t section_bytes
    void (*enter)() noexcept nogil
    void (*leave)() noexcept nogil
    uint64_t *log
    Tally *tallies  # [groups, tallies_of_group]: of all its tasks, then, if there are several crews, of each
    int64_t tallies_of_group
    WorkerState *workers  # [workers + 1]: the last is the caller's, who publishes the roots
    uint64_t generation
    uint64_t era  # how often generations have started anew
    ellm_step step
    char pad0[64]
    uint64_t tail  # atomic: log entries reserved
    char pad1[56]
    uint64_t failure  # atomic: op + 1 << 32 | error code of the first kernel that failed in this step

cdef enum:  # what a record tells of, as trace.Activity
    RECORD_TASK = 0
    RECORD_STOLEN = 1  # a task of a range that was stolen
    RECORD_WAIT = 2  # nothing was ready
    RECORD_STEAL = 3  # a search for tasks that found some
    RECORD_PARK = 4
    RECORD_JOIN = 5  # the worker's part in the step
    RECORD_STEP = 6  # of the caller: from its first root to its end
    RECORD_PREPARE = 7  # of the caller: its tables

cdef struct Record:
    int64_t begin  # ticks
    int64_t end
    int32_t group  # of a task; rows of a step
    int32_t index
    uint32_t step  # the low half of its number
    int32_t what

cdef struct Ring:  # what one worker records; one cache line
    Record *records
    int64_t capacity
    int64_t count
    int64_t dropped  # for want of room
    int64_t since  # begin of what is to be recorded when the worker is idle no longer
    int64_t searched  # begin of the last search for tasks to steal
    int32_t waited  # it is idle
    int32_t stolen  # what it drains was stolen
    char pad[8]

cdef struct WorkerState:
    ProgramState *program
    Ring *ring  # NULL: nothing is recorded
    uint64_t *slices  # [groups]
    int32_t *queue  # [events] events that fired and are to be handled
    int64_t idle_since  # ns; 0: not idle
    int64_t looked  # ns of the last look while idle
    int64_t disturbed  # ns when another program was last seen to have had the core
    const char *fetch  # what it may fetch while it is idle
    const char *fetch_end
    int32_t queued
    int32_t cursor  # next log entry to read
    int32_t oldest  # first log entry that may have tasks left
    int32_t searched  # log entries that had been read when a search for tasks found none
    int32_t last  # group run last, or -1
    int32_t error  # a kernel's error code
    int32_t index
    uint64_t tasks  # statistics; written by the worker alone, so relaxed
    uint64_t steals
    uint64_t parks
    uint64_t woken  # experts, in all steps
    uint64_t joined  # generation of the last step that the worker took part in
    uint64_t tasks_before  # statistics when it did
    uint64_t steals_before
    uint64_t parks_before
    ellm_task task
    char pad[64]

cdef struct Thread:
    PoolState *pool
    int32_t index

cdef void record(Ring *ring, int32_t what, int64_t begin, int64_t end, int32_t group, int32_t index,
                 uint32_t step) noexcept nogil
cdef void *worker_main(void *thread) noexcept nogil
cdef bint open_step(ProgramState *program) noexcept nogil
cdef bint ask_to_follow(ProgramState *program) noexcept nogil
cdef bint follow(ProgramState *program) noexcept nogil
cdef void hold(PoolState *pool) noexcept nogil
cdef void await_step(PoolState *pool, uint32_t number) noexcept nogil
cdef void stop_workers(PoolState *pool) noexcept nogil
