"""Completions to tokens, and prompts to embeddings: one step after the other, for all that are under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from ellm.scheduler import Executable, StepInput, Successor
from ellm.scheduler.program import chosen
from ellm.serving.batcher import Batcher, Share
from ellm.serving.drafter import Drafter
from ellm.serving.entry import Entry
from ellm.serving.lookup import agreeing
from ellm.serving.policy import Policy, Request
from ellm.serving.refusals import Busy, late
from ellm.serving.room import UNBOUNDED, Room
from ellm.serving.sequence import Sequence
from ellm.serving.sessions import Sessions
from ellm.serving.speculation import Speculation
from ellm.serving.staging import Staging
from ellm.serving.statistics import Statistics
from ellm.system.errors import InputError

SLOTS = 64  # sequences at a time, if nobody says how many
NO_TOKEN = -1


@dataclass
class _Step:
    """A step that runs, or follows the one that does."""

    shares: list[Share]
    staging: Staging
    inputs: StepInput
    begun: float = 0.0  # 0: not yet, or never, where what was drawn or who came has ended the run before it


class Engine:
    """Runs entries in steps of at most `chunk` rows and `slots` sequences.

    `executables` run the steps of a model's programs, in the order of `Compiled.programs`: each those of the sequences
    that have as many rows left as its program is chosen for. What a row computes does not depend on the other rows, so
    `policy`, which chooses them, and `speculation`, which adds drafts, decide speed, never results. `drafter` is told
    what steps leave behind. Where memory for keys and values is short, the newest sequences of the lowest class wait
    until others end, and go on from what is left of them. More than `queued_tokens` of prompts that wait are refused.
    `nodes` are the NUMA nodes of the workers, `cache_bytes` and `sessions` are the room's.

    One thread runs steps; any thread may call `submit` and `statistics`, and set the sequence of an entry to be
    `done`.
    """

    def __init__(
        self,
        executables: Many[Executable],
        *,
        chunk: int,
        slots: int = SLOTS,
        policy: Policy | None = None,
        queued_tokens: int | None = None,
        nodes: Many[int] = (),
        speculation: Speculation | None = None,
        drafter: Drafter | None = None,
        cache_bytes: int = UNBOUNDED,
        sessions: Sessions | None = None,
    ):
        self.executables, self.program = list(executables), executables[0].program
        self.slots = slots
        self.room = Room([executable.program for executable in executables], tuple(nodes), cache_bytes, sessions)
        self.policy = policy or Policy(chunk, self.program.row_block)
        room = chunk, slots, self.program.context, self.program.vocab
        self._staging = Staging(*room)
        self._stagings = [self._staging, Staging(*room, beside=self._staging)]  # of the step that runs, and the next
        self._under_way: list[_Step] = []  # the step that runs, and the one that may follow it
        self.batcher, self.speculation = Batcher(chunk, self.policy.deal, self._staging.more), speculation
        self.drafter = drafter
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.preemptions = 0  # how often a sequence gave way to others
        self._unread: list[Entry] = []  # of the last step, as nobody waits for it and it ends none of them
        self._queued_tokens = queued_tokens
        self._counted = Statistics()
        top_k = max((one.top_k for one in self.program.operators), default=0)
        self._routes = top_k * len(self.program.wakes)  # rows of experts that a row makes

    @property
    def free_slots(self) -> list[int]:
        """Slots that no sequence has."""
        taken = {entry.sequence.slot for entry in self.running}
        return [slot for slot in range(self.slots) if slot not in taken]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    def submit(self, entries: Many[Entry]) -> None:
        """Queue entries. Raises Busy if too many tokens wait."""
        if self._queued_tokens is not None:
            queued, more = _tokens(list(self.waiting)), _tokens(entries)
            if queued and queued + more > self._queued_tokens:
                raise Busy(queued, more, self._queued_tokens, queued * self.policy.times.row_seconds)
        self.waiting.extend(entries)

    def statistics(self) -> Statistics:
        """Numbers of now, and of what was done so far."""
        running, waiting, cache = list(self.running), list(self.waiting), self.room.statistics
        return replace(
            self._counted,
            step_seconds=self._counted.step_seconds + (self.drafter.spent if self.drafter else 0.0),
            waiting=len(waiting),
            running=len(running),
            queued_tokens=_tokens(waiting),
            kv_bytes=int(self.room.held(one.sequence for one in running)),
            preemptions=self.preemptions,
            prefix_queries=cache.queried_tokens,
            prefix_hits=cache.hit_tokens,
            prefix_evictions=cache.evicted_blocks,
            prefix_bytes=cache.held_bytes,
            expert_rows=self._counted.rows * self._routes,
            experts_woken=self._counted.experts_woken + self._woken(),
        )

    def _woken(self) -> int:
        return sum(executable.experts_woken for executable in list(self.executables))

    def sleep(self, free: Callable[[], object]) -> None:
        """Give back what is cached and, by `free`, what steps need, until `wake`. None may be due."""
        self.room.forget()
        self._staging.forget()
        self._counted.experts_woken += self._woken()
        self.executables = []
        if self.drafter is not None:
            self.drafter.executable = None
        free()
        self._counted.sleeps += 1
        self._counted.asleep = True

    def wake(self, executables: Many[Executable], drafter: Executable | None, seconds: float) -> None:
        """Go on with other executables of the same programs, which it took so long to have."""
        self.executables = list(executables)
        if self.drafter is not None:
            self.drafter.executable = drafter
        self._counted.wakes += 1
        self._counted.wake_seconds, self._counted.asleep = seconds, False

    def step(self, undisturbed: Callable[[], bool] = lambda: False) -> None:
        """Admit what there is room for, and run the rows that are due: a step of each program that has some.

        While this is `undisturbed`, and no other step is due, the same sequences' next rows follow without a gap.
        """
        self._drop_late(time.perf_counter())
        self.release()
        limit = self._admit()
        ran = [self._run(executable, limit, undisturbed) for executable in reversed(self.executables)]
        if not any(ran):
            self._read_last()
        self.release()

    def hold(self) -> None:
        """Have `step` return with the step that is under way. Any thread may call this."""
        for executable in self.executables:
            executable.hold()

    def release(self) -> None:
        """Free what ended entries hold."""
        for entry in [*self.running, *self.waiting]:
            if entry.sequence.done:
                self._leave(entry.sequence)
                (self.running if entry in self.running else self.waiting).remove(entry)
                if entry in self._unread:
                    self._unread.remove(entry)
                    _read([entry])  # nothing may come once it has ended
                entry.end()

    def _leave(self, sequence: Sequence) -> None:
        """Take the range of a sequence back; what it has stays cached."""
        if self.drafter is not None:
            self.drafter.leave(sequence)
        self.room.leave(sequence)

    def _drop_late(self, now: float) -> None:
        for entry in [*self.running, *self.waiting]:
            sequence = entry.sequence
            if self.policy.late(sequence, now) and not sequence.done:
                sequence.fail(late(sequence, now))

    def rows_for(self, other: Request) -> int:
        """How many rows a step of a request that is not in the queue may have beside those that are.

        A chunk where programs have their own bits: these are not to depend on who else is there.
        """
        if len(self.executables) > 1:
            return self.batcher.chunk
        return self.policy.limit([*(one.sequence for one in self.running), other])

    def fail(self, error: BaseException) -> None:
        """End every entry with an error."""
        for entry in [*self.running, *self.waiting]:
            entry.sequence.fail(error)
        self.release()

    def close(self, error: BaseException) -> None:
        """End every entry with an error, and unmap the ranges."""
        self.fail(error)
        self._staging.masks.close()
        self.room.close()

    def _admit(self) -> int:
        """Give waiting entries a slot and a range, as long as there is memory; how many rows the step has."""
        running = [one.sequence for one in self.running]
        waiting = {} if self._full else {one.sequence: one for one in list(self.waiting)}
        for sequence in waiting:
            self.room.foresee(sequence)
        limit = self.policy.limit([*running, *waiting])
        for sequence in self.policy.entering(running, waiting, limit, self._ready) if waiting else ():
            if not self._enter(waiting[sequence]):
                break
        return limit

    @property
    def _full(self) -> bool:
        """Whether nobody can enter: those who run have all slots, and are of the first class."""
        return len(self.running) == self.slots and not any(one.sequence.terms.priority for one in self.running)

    def _ready(self, sequence: Sequence) -> bool:
        """Whether nobody is computing what it begins with. It fails alone if that cannot be told."""
        try:
            if not self.room.prefix_is_coming(sequence):
                return True
        except Exception as error:
            sequence.fail(error)
        sequence.foreseen = False
        return False

    def _enter(self, entry: Entry) -> bool:
        """Let a waiting entry in, in place of lower classes if need be; False if others must end first."""
        sequence = entry.sequence
        while not ((free := self.free_slots) and self.room.admits(sequence)):
            victim = self._victim(sequence.terms.priority)
            if victim is not None:
                self._send_back(victim)
            elif self.running:
                return False
            else:
                sequence.fail(self.room.shortage(sequence))
                return True
        try:
            self.room.enter(sequence)
        except (InputError, MemoryError) as error:  # no address space, or nothing is left of it
            sequence.fail(error)
            return True
        sequence.slot = free[0]
        entry.begin()
        self.running.append(entry)
        self.waiting.remove(entry)
        return True

    def _run(self, executable: Executable, limit: int, undisturbed: Callable[[], bool]) -> bool:
        """Run the rows that are due there, if any are; no more than the limit if the program can do with so few."""
        program = executable.program
        shares = self._shares(executable, limit)
        while not self.room.fits(needed := self.room.step_bytes(shares, program)):
            self._make_room()
            shares = self._shares(executable, limit)
        if not shares:
            return False
        for longer in (self._constrained, self._drafted):
            more = longer(shares)
            if more is not shares and self.room.fits(more_needed := self.room.step_bytes(more, program)):
                shares, needed = more, more_needed
        self.room.write(needed)
        self.room.prepare(shares)
        step = self._lay_out(shares)
        step.begun = time.perf_counter()
        self._staging.masks.begin()
        try:
            executable.run(step.inputs, partial(self._meanwhile, executable, undisturbed))
        except BaseException as error:
            self._read_last()
            for share in self._under_way[0].shares:
                self.room.undo(share.sequence)
                share.sequence.fail(error)
        else:
            self._finish(executable)
        finally:
            self._staging.masks.wait()
            self._under_way.clear()
        return True

    def _lay_out(self, shares: list[Share], before: _Step | None = None) -> _Step:
        """Add a step; one that follows does so, in the same staging, as the last but one `before` did."""
        if before is not None and all(share.sequence.plain for share in shares):
            step = _Step(shares, before.staging, before.staging.go_on(before.inputs))
        else:
            staging = self._stagings[bool(self._under_way) and self._under_way[-1].staging is self._staging]
            step = _Step(shares, staging, staging.fill(shares))
        self._under_way.append(step)
        return step

    def _meanwhile(self, executable: Executable, undisturbed: Callable[[], bool]) -> Successor | None:
        """While a step runs: read what those before it drew, and lay out the one that follows, if that is known."""
        before = None
        if len(self._under_way) > 1:  # the second of which now runs
            before, self._under_way[1].begun = self._under_way[0], time.perf_counter()
            self._finish(executable)
        self._read_last()
        more = self._following(executable) if undisturbed() else []
        if not more:
            return None
        most = max(len(share.sequence.ends) for share in more)
        ends = [share.sequence.ends + [NO_TOKEN] * (most - len(share.sequence.ends)) for share in more]
        return Successor(self._lay_out(more, before).inputs, np.array(ends, np.int32).reshape(len(more), most))

    def _following(self, executable: Executable) -> list[Share]:
        """The next row of each sequence; nothing if another step may be due, or memory is short."""
        shares, now = self._under_way[0].shares, time.perf_counter()
        others = (self.waiting and not self._full) or len(shares) < len(self.running) or self.drafter is not None
        if others or not all(share.goes_on and not self.policy.late(share.sequence, now) for share in shares):
            return []
        if self._drafted(shares) is not shares:
            return []
        more = [share.next for share in shares]
        needed = self.room.step_bytes(shares, executable.program)  # again: what runs may not be written yet
        needed += self.room.step_bytes(more, executable.program)
        if not self.room.fits(needed):
            return []
        self.room.write(needed)
        return more

    def _finish(self, executable: Executable) -> None:
        """Take in what the first step under way has done."""
        step = self._under_way.pop(0)
        ended = (self._under_way[0].begun if self._under_way else 0.0) or time.perf_counter()
        self._measure(step.shares, ended - step.begun)
        self._staging.masks.wait()
        for share in step.shares:
            if share.sequence.constraint is not None and (broken := share.sequence.constraint.error):
                share.sequence.fail(broken)
        self._commit(step, executable)
        due: list[Entry] = []
        for entry in self.running:
            (due if entry.sequence.terms.paced or entry.may_end else self._unread).append(entry)
        _read(due)

    def _read_last(self) -> None:
        """Read what the last step computed, where that was put off."""
        unread, self._unread = self._unread, []
        _read(unread)

    def _measure(self, shares: list[Share], seconds: float) -> None:
        """Tell what a step took to those who foretell it."""
        rows = sum(share.rows for share in shares)
        decoding = all(share.decodes for share in shares)
        attended = sum(share.rows * share.end for share in shares)
        self.policy.times.measured(rows, attended, seconds, decoding)
        if self.speculation is not None and decoding:
            self.speculation.measured(shares, seconds)
        counted = self._counted
        counted.steps += 1
        counted.rows += rows
        counted.step_seconds += seconds
        counted.prompt_tokens += sum(share.rows for share in shares if not share.decodes)

    def _constrained(self, shares: list[Share]) -> list[Share]:
        """The shares with the tokens that grammars leave no choice about; the same list if there are no grammars."""
        if not any(share.draws and share.sequence.constraint is not None for share in shares):
            return shares
        found, more = [], min(self.batcher.chunk - sum(share.rows for share in shares), self._staging.more)
        more -= sum(share.scored for share in shares)
        for share in shares:
            sequence, constraint = share.sequence, share.sequence.constraint
            if share.draws and constraint is not None:
                constraint.follow(sequence.tokens[sequence.prompt_length : sequence.length])
                most = min(more, sequence.limit - 1 - sequence.length) if self.room.repeatable else 0
                forced = [*islice(constraint.forced, max(0, most))]
                share = replace(share, end=share.end + len(forced), drafts=forced)
                more -= len(forced)
            found.append(share)
        return found

    def _drafted(self, shares: list[Share]) -> list[Share]:
        """The shares with drafts; the same list if there are none."""
        return shares if self.speculation is None else self.speculation.drafted(shares)

    def _shares(self, executable: Executable, limit: int) -> list[Share]:
        running = [entry.sequence for entry in self.running if not entry.sequence.done]
        rows_of = self.batcher.rows_of
        due = [sequence for sequence in running if chosen(self.executables, rows_of(sequence)) is executable]
        return self.batcher.shares(due, executable.program.least_rows, limit)

    def _commit(self, step: _Step, executable: Executable) -> None:
        """Count what a step did."""
        shares, sampled, scores = step.shares, step.inputs.sampled, step.inputs.logprob
        assert sampled is not None and scores is not None
        tokens, logprobs = sampled.tolist(), scores.tolist()
        top, first, end = step.staging.top, 0, 0
        for share in shares:
            sequence, right, begin, end = share.sequence, 0, end, end + share.rows
            if share.scored:
                rows = slice(first, first + share.scored)
                sequence.score(share.begin + 1, scores[rows], top[rows])
                first += share.scored
            if share.draws:
                if share.drafts:
                    right = agreeing(share.drafts, tokens[first : first + len(share.drafts)])
                if not sequence.done:
                    new = slice(first, first + right + 1)
                    sequence.append(share.known, tokens[new], logprobs[new], top[new])
                    self._counted.generated_tokens += right + 1
                first += share.drawn
            if sequence.pooling is not None and (pooled := share.pooled):
                sequence.pooling.add(executable.hidden(begin + np.arange(pooled.start, pooled.stop)))
            sequence.cached = share.known + right
        if self.drafter is not None:  # before others may read it
            self.drafter.follow(shares, executable)
        for share in shares:
            sequence = share.sequence
            self.room.hold_prompt_only(share, executable.program)
            self.room.computed(share)
            if share.draws and sequence.prompt_only_bytes:
                self.room.forget_prompt_only(sequence)

    def _make_room(self) -> None:
        """Send a sequence back to wait, whose blocks may then be evicted; one that is alone fails."""
        if any(entry.sequence.done for entry in self.running):
            self.release()  # which others have ended meanwhile
            return
        running = [entry for entry in self.running if not entry.sequence.done]
        victim = self._victim() if len(running) > 1 else None
        if victim is not None:
            self._send_back(victim)
            return
        for entry in running:
            entry.sequence.fail(self.room.shortage(entry.sequence))

    def _victim(self, above: int = -1) -> Entry | None:
        """Who gives way to a class, or to anybody."""
        running = {one.sequence: one for one in self.running if not one.sequence.done}
        victim = self.policy.victim(running, above)
        return None if victim is None else running[victim]

    def _send_back(self, entry: Entry) -> None:
        self.running.remove(entry)
        self._leave(entry.sequence)
        entry.sequence.foreseen = False
        self.waiting.append(entry)
        self.preemptions += 1


def _read(entries: Many[Entry]) -> None:
    """Have entries read what a step computed, then tell of it: those who are told want the interpreter."""
    for entry in [entry for entry in entries if _has_more(entry)]:
        entry.tell()


def _has_more(entry: Entry) -> bool:
    try:
        return entry.read()
    except Exception as error:  # of this one alone
        entry.sequence.fail(error)
        return False


def _tokens(entries: Many[Entry]) -> int:
    return sum(one.sequence.left for one in entries if not one.sequence.done)  # the next step drops those
