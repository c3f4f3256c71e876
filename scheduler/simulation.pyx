"""The event loop of `ellm.scheduler.simulate`: workers that claim, steal and wait as worker.pyx does, in simulated time.

Times are nanoseconds, rates bytes per nanosecond. Everything that a worker does to shared words takes the latency
between cores; what it sees is the state at the moment when it starts to look.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int8_t, int32_t, int64_t

import numpy as np

from ellm.scheduler.homes cimport deals_together, expert_work, home_begin
from ellm.scheduler.shared_memory cimport Domain, Entry, Heap, advance, join, leave, next_end, pop, push

from ellm.scheduler.following import following
from ellm.scheduler.program import Kind

cdef enum:
    TURN = 0  # a worker looks for something to do
    START = 1  # its task begins to read memory
    FINISH = 2  # its task is done
    COUNTED = 3  # the tasks that it ran of a group are counted
    RUNNING = 0
    IDLE = 1  # watches the log
    PENDING = 2  # will take its turn at a time that is known
    GONE = 3  # the step has ended
    LOOKS = 8  # at slices that a search for tasks has under way at once
    WATCH_NS = 1500  # between two searches: WATCHES pauses

cdef class Simulation:
    """One step. `step` and `machine` are StepWork and Workers of `ellm.scheduler.simulate`, `caches` its CacheState."""

    # the program and the work of its tasks
    cdef int32_t groups, workers, end, domains
    cdef const int32_t[::1] signals_begin, signals, publishes_begin, publishes, triggers_begin, triggers
    cdef const int32_t[::1] tiles, count, completes_empty, wake_of, joins, woken_begin, woken, roots
    cdef const int64_t[::1] rows, item_begin, item_key
    cdef const double[::1] item_bytes, item_ns, item_more_ns, item_panel_ns, item_home
    cdef const int32_t[::1] firsts, seconds  # of each wake: groups of expert 0
    cdef int64_t[::1] before, total  # as home_begin takes them
    # the machine
    cdef const int32_t[::1] domain_of, cache_of, socket_of
    cdef const int32_t[::1] crew_of, crew_begin
    cdef const int32_t[:, ::1] node_of
    cdef const int32_t[:, ::1] crew_order
    cdef int32_t crews
    cdef double remote_rate, cache_rate, cache_bytes, task_ns, stream_ns, near_ns, far_ns, socket_ns, spin_ns, wake_ns
    cdef double wake_each_ns, fetch_bytes
    cdef bint asleep
    cdef Domain *memory
    cdef int32_t[::1] key_cache
    cdef double[::1] key_at, filled
    # state of the groups and events
    cdef int32_t[::1] needed, signalled, begin, limit, unclaimed, remaining, log, queue, crew_left
    cdef const int32_t[::1] following
    cdef int8_t[::1] empty  # [groups, crews + 1]: nothing was left of a crew's, and of any
    cdef int32_t queued, logged
    cdef double[::1] log_time, line_free
    cdef int32_t[::1] log_worker
    # state of the workers
    cdef int32_t[::1] state, cursor, oldest, group_of, task_of, ran, last_item, source
    cdef int8_t[::1] touched  # [groups, workers]: somebody has taken of the slice
    cdef int32_t[::1] searched, left, last_group, fetched_group, fetching, last_task
    cdef double[::1] idle_from, started, floor, size, fetched
    cdef Heap events
    cdef list owned  # memory that the pointers point to
    cdef double ended
    cdef bint recording
    cdef list record
    # what is found out
    cdef readonly object published_at, done_at, cause, kernel_ns, tasks, steals
    cdef readonly double memory_bytes, cached_bytes
    cdef readonly int32_t last  # the group that ended the step
    cdef double[::1] published, done, kernel
    cdef int32_t[::1] because
    cdef int64_t[::1] tasks_run, stolen

    def __init__(self, program, step, machine, caches, bint record):
        cdef int32_t i
        self.groups, self.workers, self.end = len(program.groups), len(machine.domain_of), program.end
        for name in ("signals", "publishes", "triggers"):
            ranges = getattr(program, name)
            assert ranges.begin.dtype == np.int32
        self.signals_begin, self.signals = program.signals.begin, whole(program.signals.items)
        self.publishes_begin, self.publishes = program.publishes.begin, whole(program.publishes.items)
        self.triggers_begin, self.triggers = program.triggers.begin, whole(program.triggers.items)
        self.tiles = np.ascontiguousarray(program.groups["tiles"])
        self.completes_empty = np.ascontiguousarray(program.groups["completes_empty"])
        self.roots = whole(program.roots)
        wake_of = np.full(self.groups, -1, np.int32)
        wake_of[program.wakes["group"]] = np.arange(len(program.wakes))
        self.wake_of, self.joins = wake_of, program.wakes["join"].astype(np.int32)
        self.woken_begin, self.woken = step.woken.begin, whole(step.woken.items)
        self.rows = step.rows
        self.count, self.needed = step.count, step.needed.copy()
        tasks = step.count * program.groups["tiles"].astype(np.int64)
        dealt = (program.groups["kind"] == Kind.ROWS) & (program.groups["counts"] < 0)
        self.before = np.where(dealt, program.groups["block"] * tasks, 0)
        self.total = np.where(dealt, step.row_blocks * tasks, tasks)
        self.firsts = program.wakes["first"].astype(np.int32)
        self.seconds = np.array([program.second_of(i) for i in range(len(program.wakes))], np.int32)
        self.item_begin, self.item_key = step.item_begin, step.item_key
        self.item_bytes, self.item_ns = step.item_bytes, step.item_ns
        self.item_more_ns, self.item_panel_ns = step.item_more_ns, step.item_panel_ns
        self.item_home = step.item_home
        self.domain_of, self.cache_of, self.socket_of = machine.domain_of, machine.cache_of, machine.socket_of
        self.crews, self.crew_of = machine.crews.count, machine.crews.of_worker
        self.crew_begin, self.crew_order = machine.crews.begin, machine.crews.order
        self.node_of = machine.crews.node
        self.remote_rate, self.cache_rate, self.cache_bytes = (
            machine.remote_rate, machine.cache_rate, machine.cache_bytes
        )
        self.task_ns, self.stream_ns = machine.task_ns, machine.stream_ns
        self.near_ns, self.far_ns, self.socket_ns = machine.near_ns, machine.far_ns, machine.socket_ns
        self.spin_ns, self.wake_ns, self.wake_each_ns = machine.spin_ns, machine.wake_ns, machine.wake_each_ns
        self.asleep = machine.gap_ns > machine.linger_ns
        self.fetch_bytes = machine.fetch_bytes
        self.following = following(program)
        self.domains = machine.domains
        self.key_cache, self.key_at, self.filled = caches.key_cache, caches.key_at, caches.filled
        self.recording, self.record = record, []
        self.allocate(len(program.events))
        self.memory = <Domain *>self.reserve(self.domains * sizeof(Domain))
        for i in range(self.domains):
            self.memory[i].rate, self.memory[i].core_rate = machine.domain_rate, machine.core_rate
            self.memory[i].readers.entries = <Entry *>self.reserve((self.workers + 1) * sizeof(Entry))

    def allocate(self, events):
        groups, workers = self.groups, self.workers
        self.owned = []
        self.signalled, self.queue = np.zeros(events, np.int32), np.zeros(events, np.int32)
        self.begin = np.full(groups * workers, -1, np.int32)
        self.limit = np.empty(groups * workers, np.int32)
        self.unclaimed, self.remaining, self.log, self.log_worker = (np.zeros(groups + 1, np.int32) for _ in range(4))
        self.log_time, self.line_free = np.zeros(groups + 1), np.zeros(groups * (self.crews + 1))
        self.crew_left, self.empty = np.zeros(groups * self.crews, np.int32), np.zeros(groups * (self.crews + 1), np.int8)
        self.state, self.cursor, self.oldest, self.group_of, self.task_of, self.ran, self.source = (
            np.zeros(workers, np.int32) for _ in range(7)
        )
        self.last_item, self.last_group, self.fetched_group = (np.full(workers, -1, np.int32) for _ in range(3))
        self.last_task, self.fetching, self.searched, self.left = (np.zeros(workers, np.int32) for _ in range(4))
        self.touched = np.zeros(groups * workers, np.int8)
        self.idle_from, self.started, self.floor, self.size, self.fetched = (np.zeros(workers) for _ in range(5))
        self.events.entries = <Entry *>self.reserve((2 * workers + 3) * sizeof(Entry))
        self.published_at, self.done_at = np.full(groups, np.nan), np.full(groups, np.nan)
        self.cause, self.kernel_ns = np.full(groups, -1, np.int32), np.zeros(workers)
        self.tasks, self.steals = np.zeros(workers, np.int64), np.zeros(workers, np.int64)
        self.published, self.done, self.because = self.published_at, self.done_at, self.cause
        self.kernel, self.tasks_run, self.stolen = self.kernel_ns, self.tasks, self.steals

    cdef void *reserve(self, size_t size):
        """Memory of zeros that is freed with this object."""
        cdef int8_t[::1] view = np.zeros(size, np.int8)
        self.owned.append(view)
        return &view[0]

    def run(self):
        """Simulate the step. Returns (ns from its start to its end, the tasks in order of their end if recorded).

        A recorded task is (worker, group, index, begin, end). Raises RuntimeError if the step never ends.
        """
        cdef int32_t i
        cdef double time = 0
        self.ended = -1
        for i in range(len(self.roots)):
            if self.count[self.roots[i]]:
                self.publish(self.roots[i], 0, 0, -1)
        if self.asleep:
            self.state[:], self.idle_from[:] = IDLE, -INFINITY
            self.wake_sleepers(self.workers, &time)
        else:
            for i in range(self.workers):
                self.later(i, self.near_ns)
        self.loop()
        if self.ended < 0:
            raise RuntimeError("the step never ends: an event does not get the signals it needs")
        return self.ended, self.record

    cdef void loop(self):
        cdef double time, memory_time, other
        cdef int32_t i, first
        cdef Entry entry
        while True:
            memory_time, first = INFINITY, -1
            for i in range(self.domains):
                other = next_end(&self.memory[i])
                if other < memory_time:
                    memory_time, first = other, i
            time = self.events.entries[0].time if self.events.size else INFINITY
            if memory_time == INFINITY and time == INFINITY:
                return
            if memory_time <= time:
                advance(&self.memory[first], memory_time)
                entry = pop(&self.memory[first].readers)
                if self.fetching[entry.worker]:
                    self.fetching[entry.worker] = 0
                else:
                    push(&self.events, max(memory_time, self.floor[entry.worker]), entry.worker, FINISH)
            else:
                entry = pop(&self.events)
                if entry.kind == TURN:
                    self.turn(entry.worker, time)
                elif entry.kind == START:
                    join(&self.memory[self.source[entry.worker]], time, self.size[entry.worker], entry.worker)
                elif entry.kind == FINISH:
                    self.finish(entry.worker, time)
                else:
                    self.counted(entry.worker, time)

    cdef inline double latency(self, int32_t a, int32_t b) noexcept:
        """Nanoseconds for a word that worker a wrote to reach worker b."""
        if self.socket_of[a] != self.socket_of[b]:
            return self.socket_ns
        return self.near_ns if self.cache_of[a] == self.cache_of[b] else self.far_ns

    cdef inline double distance(self) noexcept:
        """The latency of a word that any of the workers may have written last."""
        if self.workers == 1:
            return self.task_ns
        return self.latency(0, self.workers - 1)

    cdef inline void later(self, int32_t worker, double time) noexcept:
        self.state[worker] = PENDING
        push(&self.events, time, worker, TURN)

    # Work -------------------------------------------------------------------------------------------------------------

    cdef void turn(self, int32_t worker, double time):
        """Read the log, else steal, else watch."""
        cdef int32_t group, skipped
        cdef double visible
        self.state[worker] = RUNNING
        if self.fetching[worker]:
            self.fetching[worker] = 0
            self.fetched[worker] -= leave(&self.memory[self.domain_of[worker]], time, worker)
        while self.cursor[worker] < self.logged:
            visible = self.log_time[self.cursor[worker]]
            visible += self.latency(self.log_worker[self.cursor[worker]], worker)
            if visible > time:
                self.later(worker, visible)
                return
            group = self.log[self.cursor[worker]]
            self.cursor[worker] += 1
            if self.claim(worker, group):
                self.start(worker, group, time + self.task_ns)
                return
            time += self.task_ns
        if self.ended >= 0:
            self.state[worker] = GONE
        elif not self.steal(worker, &time):
            self.searched[worker], skipped = self.cursor[worker], self.left[worker]
            if skipped:
                self.later(worker, time + WATCH_NS)
                return
            self.state[worker] = IDLE
            self.idle_from[worker] = time
            self.fetch(worker, time)

    cdef inline bint claim(self, int32_t worker, int32_t group) noexcept:
        """Take the first task of the worker's own slice."""
        cdef int64_t at = <int64_t>group * self.workers + worker
        self.home(group, worker)
        self.touched[at] = 1
        if self.begin[at] == self.limit[at]:
            return False
        self.task_of[worker] = self.begin[at]
        self.begin[at] += 1
        self.unclaimed[group] -= 1
        return True

    cdef inline void home(self, int32_t group, int32_t worker) noexcept:
        """A slice that nobody has touched is the home slice."""
        cdef int64_t at = <int64_t>group * self.workers + worker
        cdef int64_t tasks = <int64_t>self.count[group] * self.tiles[group]
        if self.begin[at] < 0:
            self.begin[at] = <int32_t>self.home_task(group, tasks, worker, worker)
            self.limit[at] = <int32_t>self.home_task(group, tasks, worker, worker + 1)

    cdef inline int64_t home_task(self, int32_t group, int64_t tasks, int32_t owner, int32_t worker) noexcept:
        """The first task at home with a worker of the node that `owner` is in, or with whoever follows it."""
        return home_begin(
            tasks, self.before[group], self.total[group], worker, self.workers, self.node_of[owner, 0],
            self.node_of[owner, 1],
        )

    cdef bint steal(self, int32_t worker, double *time):
        """Look through the groups read so far: the one run last, then the oldest first.

        Looks do not wait for each other, as nothing but a guess of the branch predictor lies between them: LOOKS of
        them take one latency. What is found takes one too.
        """
        cdef int32_t slot, last = self.last_group[worker]
        self.left[worker] = 0
        while self.oldest[worker] < self.cursor[worker] and self.remaining[self.log[self.oldest[worker]]] == 0:
            self.oldest[worker] += 1
        if last >= 0 and self.steal_of(worker, last, False, time):
            return True
        for slot in range(self.oldest[worker], self.cursor[worker]):
            if self.steal_of(worker, self.log[slot], slot >= self.searched[worker], time):
                return True
        return False

    cdef bint steal_of(self, int32_t worker, int32_t group, bint fresh, double *time):
        """Look at the slices of a group, nearest victim first."""
        cdef int32_t i, n, victim, crew, first, size, found
        cdef bint any_left = False
        cdef int64_t at
        time[0] += self.near_ns / LOOKS
        if self.empty[self.tally(group, -1)]:
            return False
        for i in range(self.crews):
            found = 0
            crew = self.crew_order[self.crew_of[worker], i]
            time[0] += self.latency(worker, self.crew_begin[crew]) / LOOKS
            if self.empty[self.tally(group, crew)]:
                continue
            first, size = self.crew_begin[crew], self.crew_begin[crew + 1] - self.crew_begin[crew]
            for n in range(1, size + 1):
                victim = first + (worker + n) % size
                if victim == worker:
                    continue
                time[0] += self.latency(worker, victim) / LOOKS
                self.home(group, victim)
                at = <int64_t>group * self.workers + victim
                if self.begin[at] < self.limit[at] and fresh and self.crews > 1 and not self.touched[at]:
                    found = self.left[worker] = 1
                elif self.begin[at] < self.limit[at]:
                    self.take_half(worker, group, at)
                    self.start(worker, group, time[0] + self.latency(worker, victim) + self.task_ns)
                    return True
            if not found:
                self.empty[self.tally(group, crew)] = 1
            any_left |= found
        if not any_left:
            self.empty[self.tally(group, -1)] = 1
        return False

    cdef void take_half(self, int32_t worker, int32_t group, int64_t at):
        """Move the back half of what is left in a slice into the worker's own, and claim the first of it."""
        cdef int64_t own = <int64_t>group * self.workers + worker
        self.touched[at] = 1
        self.limit[own] = self.limit[at]
        self.limit[at] = self.begin[own] = self.begin[at] + (self.limit[at] - self.begin[at]) // 2
        self.stolen[worker] += 1
        self.claim(worker, group)
        if self.begin[own] < self.limit[own]:  # others can take of it
            self.empty[self.tally(group, self.crew_of[worker])] = self.empty[self.tally(group, -1)] = 0

    cdef inline int64_t tally(self, int32_t group, int32_t crew) noexcept:
        """Of a group's tasks that were given to a crew; -1: of all of them."""
        return <int64_t>group * (self.crews + 1) + crew + 1

    cdef void fetch(self, int32_t worker, double time):
        """Begin to read what the worker will be given of the group after its last one, if that can be known."""
        cdef int32_t group = self.following[self.last_group[worker]] if self.last_group[worker] >= 0 else -1
        cdef int64_t tasks, item
        cdef double size
        if group < 0:
            return
        if group != self.fetched_group[worker]:
            self.fetched_group[worker], self.fetched[worker] = group, 0
        tasks = <int64_t>self.tiles[group]
        item = self.item_begin[group]
        if not self.count[group] or self.item_home[item] != 0:
            return
        tasks = self.home_task(group, tasks, worker, worker + 1) - self.home_task(group, tasks, worker, worker)
        size = min(tasks * self.item_bytes[item], self.fetch_bytes) - self.fetched[worker]
        if size > 0:
            self.fetched[worker] += size
            self.fetching[worker] = 1
            join(&self.memory[self.domain_of[worker]], time, size, worker)

    cdef void start(self, int32_t worker, int32_t group, double time):
        """Begin the task that the worker has claimed."""
        cdef int32_t task = self.task_of[worker], tiles = self.tiles[group]
        cdef int64_t item = self.item_begin[group] + task // tiles, key
        cdef double size = self.item_bytes[item], least = self.item_ns[item], ahead
        cdef int32_t place = task % tiles, domain, cache = self.cache_of[worker]
        self.group_of[worker], self.last_group[worker], self.started[worker] = group, group, time
        self.ran[worker] += 1
        time += self.item_more_ns[item]
        if self.last_item[worker] != item:
            self.last_item[worker] = <int32_t>item
            time += self.item_panel_ns[item]
        if size and self.item_key[item] >= 0:
            key = self.item_key[item] + place
            if self.key_cache[key] == cache and self.filled[cache] - self.key_at[key] < self.cache_bytes:
                least = max(least, size / self.cache_rate)
                self.cached_bytes += size
                size = 0
            else:
                self.key_cache[key], self.key_at[key] = cache, self.filled[cache]
                self.filled[cache] += size
        if self.fetched_group[worker] == group and self.fetched[worker] > 0:
            ahead = min(size, self.fetched[worker])
            self.memory_bytes += ahead
            self.fetched[worker] -= ahead
            size -= ahead
        if not size:
            push(&self.events, time + least, worker, FINISH)
            return
        if self.item_home[item] >= 0:
            domain = self.domain_of[self.home_of(item, place, tiles)]
        else:
            domain = self.domain_of[worker] if self.item_home[item] == -1 else <int32_t>(-2 - self.item_home[item])
        if domain != self.domain_of[worker]:
            least = max(least, size / self.remote_rate)
        self.memory_bytes += size
        time += self.stream_ns
        self.floor[worker] = time + least
        self.source[worker], self.size[worker] = domain, size
        push(&self.events, time, worker, START)

    cdef inline int32_t home_of(self, int64_t item, int32_t place, int32_t tiles) noexcept:
        """The worker in whose domain lies what a task of an item reads: the later ones of a share of the workers."""
        cdef double first = self.item_home[item]
        cdef double worker = self.workers * (first + (1 - first) * (place + 1) / tiles) - 1e-6
        return min(<int32_t>worker, self.workers - 1)

    cdef void finish(self, int32_t worker, double time):
        """End a task and take the next of the slice; when it is dry, count its tasks."""
        cdef int32_t group = self.group_of[worker]
        self.kernel[worker] += time - self.started[worker]
        self.tasks_run[worker] += 1
        if self.recording:
            self.record.append((worker, group, self.task_of[worker], self.started[worker], time))
        if self.claim(worker, group):
            self.start(worker, group, time + self.task_ns)
            return
        self.last_task[worker] = self.task_of[worker]
        if self.crews == 1:
            self.wait_for_line(self.tally(group, -1), &time, self.distance())
        else:
            self.wait_for_line(self.tally(group, self.given_to(group, self.last_task[worker])), &time, self.near_ns)
        push(&self.events, time, worker, COUNTED)

    cdef inline void wait_for_line(self, int64_t tally, double *time, double latency) noexcept:
        """Change a word that others change too: one at a time."""
        time[0] = max(time[0], self.line_free[tally]) + latency
        self.line_free[tally] = time[0]

    cdef inline int32_t given_to(self, int32_t group, int64_t task) noexcept:
        """The crew that a task was given to."""
        cdef int64_t tasks = <int64_t>self.count[group] * self.tiles[group]
        cdef int32_t crew = self.crew_of[self.node_of[((task + 1) * self.workers - 1) // tasks, 0]]
        while task >= self.home_task(group, tasks, self.crew_begin[crew], self.crew_begin[crew + 1]):
            crew += 1
        return crew

    cdef inline bint crew_is_through(self, int32_t group, int32_t crew, int32_t ran) noexcept:
        """Count tasks of a crew. Whether they were its last ones."""
        cdef int64_t at = <int64_t>group * self.crews + crew, tasks = <int64_t>self.count[group] * self.tiles[group]
        cdef int32_t first = self.crew_begin[crew], end = self.crew_begin[crew + 1]
        cdef int64_t given = self.home_task(group, tasks, first, end) - self.home_task(group, tasks, first, first)
        self.crew_left[at] += ran
        return self.crew_left[at] == given

    # Events -----------------------------------------------------------------------------------------------------------

    cdef void counted(self, int32_t worker, double time):
        cdef int32_t group = self.group_of[worker], ready = 0, crew
        self.remaining[group] -= self.ran[worker]
        if self.crews > 1:
            crew = self.given_to(group, self.last_task[worker])
            if self.crew_is_through(group, crew, self.ran[worker]):
                self.wait_for_line(self.tally(group, -1), &time, self.distance())
        self.ran[worker] = 0
        if self.remaining[group] == 0:
            self.done[group] = time
            self.empty[self.tally(group, -1)] = 1
            if self.wake_of[group] >= 0:
                ready = self.wake_groups(self.wake_of[group], worker, &time)
            self.signal_of(group, &time)
            ready += self.fire(worker, group, &time)
            if ready > 1:
                self.wake_sleepers(ready, &time)
        self.turn(worker, time)

    cdef void deal(self, int32_t first, int32_t last, int32_t offset):
        """Deal out the tasks of the groups so far behind those woken together."""
        cdef int64_t total = 0, before = 0, tasks, work
        cdef int32_t i, group
        for i in range(first, last):
            total += expert_work(self.rows[self.woken[i] + offset], self.count[self.woken[i] + offset])
        for i in range(first, last):
            group = self.woken[i] + offset
            tasks, work = self.count[group] * self.tiles[group], expert_work(self.rows[group], self.count[group])
            self.before[group] = before * tasks // work
            self.total[group] = (total * tasks + work - 1) // work
            before += work

    cdef int32_t wake_groups(self, int32_t wake, int32_t worker, double *time):
        cdef int32_t i, ready = 0, first = self.woken_begin[wake], last = self.woken_begin[wake + 1]
        self.needed[self.joins[wake]] = last - first
        if first == last:
            self.queue[self.queued] = self.joins[wake]
            self.queued += 1
        if deals_together(last - first, self.node_of[0, 1]):
            self.deal(first, last, 0)
            self.deal(first, last, self.seconds[wake] - self.firsts[wake])
        for i in range(first, last):
            ready += self.publish(self.woken[i], worker, time[0], self.group_of[worker])
            time[0] += self.task_ns
        return ready

    cdef inline void signal(self, int32_t event) noexcept:
        self.signalled[event] += 1
        if self.signalled[event] == self.needed[event]:
            self.queue[self.queued] = event
            self.queued += 1

    cdef void signal_of(self, int32_t group, double *time):
        cdef int32_t i
        for i in range(self.signals_begin[group], self.signals_begin[group + 1]):
            self.signal(self.signals[i])
            time[0] += self.near_ns

    cdef int32_t fire(self, int32_t worker, int32_t group, double *time):
        """Handle the events that are met; returns how many tasks became ready."""
        cdef int32_t head = 0, event, i, ready = 0
        while head < self.queued:
            event = self.queue[head]
            for i in range(self.publishes_begin[event], self.publishes_begin[event + 1]):
                ready += self.publish(self.publishes[i], worker, time[0], group)
                time[0] += self.task_ns
            for i in range(self.triggers_begin[event], self.triggers_begin[event + 1]):
                self.signal(self.triggers[i])
            if event == self.end:
                self.ended = time[0]
                self.last = group
            head += 1
        self.queued = 0
        return ready

    cdef int32_t publish(self, int32_t group, int32_t worker, double time, int32_t cause):
        cdef int32_t tasks = self.count[group] * self.tiles[group], i
        cdef double nothing = 0
        self.because[group], self.published[group] = cause, time
        if tasks == 0:
            if self.completes_empty[group]:
                self.done[group] = time
                self.signal_of(group, &nothing)
            return 0
        self.remaining[group] = self.unclaimed[group] = tasks
        self.log[self.logged], self.log_time[self.logged], self.log_worker[self.logged] = group, time, worker
        self.logged += 1
        for i in range(self.workers):  # those that watch see it
            if self.state[i] == IDLE and time - self.idle_from[i] <= self.spin_ns:
                self.later(i, max(time + self.latency(worker, i), self.idle_from[i]))
        return tasks

    cdef void wake_sleepers(self, int32_t most, double *time):
        """Wake so many of those that sleep, each crew its share: one, who wakes the others, one after the other."""
        cdef int32_t crew, share, before = 0
        most = min(most, self.workers)
        for crew in range(self.crews):
            share = <int64_t>most * self.crew_begin[crew + 1] // self.workers
            self.wake_crew(crew, share - before, time)
            before = share

    cdef void wake_crew(self, int32_t crew, int32_t most, double *time):
        cdef int32_t i
        cdef double woken = -1
        for i in range(self.crew_begin[crew], self.crew_begin[crew + 1]):
            if self.state[i] == IDLE and most > 0:
                most -= 1
                if woken < 0:
                    time[0] += self.wake_each_ns
                    woken = time[0]
                else:
                    woken += self.wake_each_ns
                woken = max(woken, self.idle_from[i])
                self.later(i, woken + self.wake_ns)
                if woken == time[0]:
                    woken += self.wake_ns


cdef whole(values):
    """int32 values, at least one, so that a view of them has an address."""
    return np.ascontiguousarray(values, np.int32) if len(values) else np.zeros(1, np.int32)
