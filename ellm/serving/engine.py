"""Completions to tokens: one step after the other, for all that are under way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass

from ellm.scheduler import Executable, StepInput
from ellm.scheduler.program import Program, chosen
from ellm.serving.batcher import Batcher, Policy, Share, decoding_first
from ellm.serving.completion import Completion
from ellm.serving.lookup import agreeing
from ellm.serving.ranges import PromptCache
from ellm.serving.room import Room
from ellm.serving.speculation import Speculation
from ellm.serving.staging import Staging
from ellm.system.errors import InputError


@dataclass(frozen=True)
class UnderWay:
    """A step that may have run and is not counted yet."""

    shares: list[Share]
    inputs: StepInput
    program: Program


class Engine:
    """Runs completions in steps of at most `chunk` rows and `slots` sequences, in the order in which they came.

    `executables` run the steps of a model's programs, in the order of `Compiled.programs`: each those of the sequences
    that have as many rows left as its program is chosen for. What a row computes does not depend on the other rows, so
    `policy`, which chooses them, and `speculation`, which adds drafts, decide speed, never results. Where memory for
    keys and values is short, the newest sequences wait, and are computed again, until others end. `nodes` are the NUMA
    nodes of the workers.

    One thread at a time may call `step`, `settle` and `release`, which see to it that a step is counted once: an
    exception from outside, such as KeyboardInterrupt, may end them anywhere, and the next call goes on from there.
    """

    def __init__(
        self,
        executables: Many[Executable],
        *,
        chunk: int,
        slots: int = 64,
        policy: Policy = decoding_first,
        nodes: Many[int] = (),
        speculation: Speculation | None = None,
    ):
        self.executables, self.program = list(executables), executables[0].program
        self.slots = slots
        self.room = Room([executable.program for executable in executables], tuple(nodes))
        self.batcher, self.speculation = Batcher(chunk, policy), speculation
        self.waiting: deque[Completion] = deque()
        self.running: list[Completion] = []
        self.preemptions = 0  # how often a sequence gave way to older ones
        self._staging = Staging(chunk, slots, self.program.context, self.program.vocab)
        self._under_way: UnderWay | None = None

    @property
    def free_slots(self) -> list[int]:
        """Slots that no sequence has."""
        taken = {completion.sequence.slot for completion in self.running}
        return [slot for slot in range(self.slots) if slot not in taken]

    def submit(self, completions: Many[Completion]) -> None:
        """Queue completions, also while a step is under way. Raises InputError if a prompt cache is in use."""
        caches = [one.sequence.cache for one in completions if one.sequence.cache is not None]
        if any(cache.busy for cache in caches) or len(set(map(id, caches))) < len(caches):
            raise InputError("this prompt cache is in use by another request")
        for cache in caches:
            cache.busy = True
        self.waiting.extend(completions)

    def step(self) -> None:
        """Admit what there is room for, and run the rows that are due: a step of each program that has some."""
        self.release()
        self._admit()
        for executable in reversed(self.executables):
            self._run(executable)

    def settle(self) -> None:
        """Count the last step if it has ended, else undo it, and read the new tokens."""
        if self._under_way is not None:
            if self._under_way.inputs.ended:
                self._commit(self._under_way)
            else:
                for share in self._under_way.shares:
                    self.room.undo(share.sequence)
            self._under_way = None
        for completion in self.running:
            completion.read()

    def release(self) -> None:
        """Free what ended completions hold."""
        self.settle()
        for completion in [*self.running, *self.waiting]:
            if completion.sequence.done:
                self.room.leave(completion.sequence)
                (self.running if completion in self.running else self.waiting).remove(completion)

    def clear(self, cache: PromptCache) -> None:
        """Give the pages of a prompt cache back. Raises InputError if a completion uses it."""
        if cache.busy:
            raise InputError("this prompt cache is in use by another request")
        self.room.clear(cache)

    def close(self, error: BaseException) -> None:
        """End every completion with an error, and unmap the ranges."""
        for completion in [*self.running, *self.waiting]:
            completion.sequence.fail(error)
        self.release()
        self.room.ranges.close()

    def _admit(self) -> None:
        """Give waiting completions a slot and a range, as long as there is memory for their prompts."""
        while self.waiting and (free := self.free_slots):
            completion = self.waiting[0]
            if completion not in self.running:  # else an interrupt came before it left the queue
                sequence = completion.sequence
                fits = self.room.admits(sequence)
                if not fits and self.running:
                    return
                try:
                    if not fits:
                        raise self.room.shortage(sequence)
                    self.room.enter(sequence)
                    sequence.slot = free[0]
                    completion.begin()
                except InputError as error:  # no memory, or no address space
                    sequence.fail(error)
                self.running.append(completion)
            self.waiting.remove(completion)

    def _run(self, executable: Executable) -> None:
        """Run the rows that are due there."""
        program = executable.program
        shares = self._shares(executable)
        while not self.room.fits(needed := self.room.step_bytes(shares, program)):
            self._make_room()
            shares = self._shares(executable)
        if not shares:
            return
        if self.speculation is not None:
            drafted = self.speculation.drafted(shares)
            if self.room.fits(more := self.room.step_bytes(drafted, program)):
                shares, needed = drafted, more
        self.room.write(needed)
        self.room.prepare(shares)
        inputs = self._staging.fill(shares)
        self._under_way = UnderWay(shares, inputs, program)
        begun = time.perf_counter()
        try:
            executable.run(inputs)
        except Exception as error:
            for share in shares:
                share.sequence.fail(error)
        else:
            if self.speculation is not None:
                self.speculation.measured(shares, time.perf_counter() - begun)
        self.settle()

    def _shares(self, executable: Executable) -> list[Share]:
        running = [completion.sequence for completion in self.running if not completion.sequence.done]
        due = [sequence for sequence in running if chosen(self.executables, sequence.left) is executable]
        return self.batcher.shares(due, executable.program.least_rows)

    def _commit(self, step: UnderWay) -> None:
        """Count what a step did. Only assignments, so that an interrupt may cut it short and it is done again."""
        tokens, logprobs = step.inputs.sampled, step.inputs.logprob
        assert tokens is not None and logprobs is not None
        first = 0
        for share in step.shares:
            sequence, right = share.sequence, 0
            if share.draws:
                right = agreeing(share.drafts, tokens[first : first + len(share.drafts)].tolist())
                if not sequence.done:
                    new = slice(first, first + right + 1)
                    sequence.append(share.known, tokens[new], logprobs[new])
                first += share.drawn
            sequence.cached = share.known + right
            self.room.hold_prompt_only(share, step.program)
            self.room.pass_windows(sequence)
            if share.draws and sequence.prompt_only_bytes:
                self.room.forget_prompt_only(sequence)

    def _make_room(self) -> None:
        """Send the newest sequence back to wait, without what was computed of it; one that is alone fails."""
        running = [completion for completion in self.running if not completion.sequence.done]
        if len(running) < 2:
            for completion in running:
                completion.sequence.fail(self.room.shortage(completion.sequence))
            return
        newest = running[-1]
        self.waiting.appendleft(newest)
        self.running.remove(newest)
        self.room.give_way(newest.sequence)
        self.preemptions += 1
