"""What a step of a program runs: its tasks, its events and its longest chain of dependencies, without running it."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Program


class Step:
    """The first `rows` rows of one sequence, the last of which is sampled.

    Routed rows go to experts 0, 1, ... evenly: as many experts as can be are hit.
    """

    def __init__(self, program: Program, rows: int, workers: int):
        self.program = program
        self.rows = rows
        self.counts = _step_counts(program, rows, workers)
        self.tasks = self._tasks()

    def _tasks(self) -> np.ndarray:
        """Tasks of every group."""
        groups, operators = self.program.groups, self.program.meta["operators"]
        routed = groups["counts"] >= 0
        tasks = self.counts[groups["kind"], np.where(routed, 0, groups["block"])] * groups["tiles"].astype(np.int64)
        experts, top_k = (
            np.array([one[name] for one in operators])[groups["op"][routed]] for name in ("experts", "top_k")
        )
        number, rows = groups["block"][routed], self.rows * top_k
        hit = np.minimum(experts, rows)
        own = np.where(number < hit, rows // hit + (number < rows % hit), 0)
        tasks[routed] = groups["tiles"][routed] * -(-own // self.program.row_block)
        return tasks

    def _experts_hit(self, group: int) -> int:
        """How many experts the wake wakes whose first group this is."""
        operator = self.program.meta["operators"][self.program.groups["op"][group]]
        return min(operator["experts"], self.rows * operator["top_k"])

    def critical_path(self) -> tuple[int, int]:
        """(tasks on the longest chain of dependencies, events that fire)."""
        program = self.program
        missing = program.events["needed"].tolist()
        for number in np.flatnonzero(program.events["dynamic"] >= 0):
            missing[number] += int(np.count_nonzero(self.counts[program.events["dynamic"][number]]))
        wakes = {int(wake["group"]): wake for wake in program.wakes}
        depth = [0] * len(missing)
        ready = [(int(group), 0) for group in program.roots]  # groups, and the tasks before them
        fired = 0
        while ready:
            group, before = ready.pop()
            if not self.tasks[group] and not program.groups["completes_empty"][group]:
                continue
            after = before + bool(self.tasks[group])
            if group in wakes:
                first, join = int(wakes[group]["first"]), int(wakes[group]["join"])
                hit = self._experts_hit(first)
                missing[join] += hit
                ready += [(first + expert, after) for expert in range(hit)]
            signals = [(int(event), after) for event in program.signals[group]]
            while signals:
                event, after = signals.pop()
                depth[event] = max(depth[event], after)
                missing[event] -= 1
                if missing[event] == 0:
                    fired += 1
                    ready += [(int(published), depth[event]) for published in program.publishes[event]]
                    signals += [(int(other), depth[event]) for other in program.triggers[event]]
        return depth[program.end], fired


def _step_counts(program: Program, rows: int, workers: int) -> np.ndarray:
    """counts[kind, block] of the step."""
    step = StepInput(
        tokens=np.zeros(rows, np.int32),
        positions=np.arange(rows, dtype=np.int32) % program.context,
        slots=np.arange(rows, dtype=np.int32) // program.context,
        ranges=np.zeros(rows, np.uint64),
        logit_row=np.array([rows - 1], np.int32),
        logits=np.zeros((1, program.vocab), np.float32),
        sampling=np.zeros(1, SAMPLING),
        sampled=np.zeros(1, np.int32),
        logprob=np.zeros(1, np.float32),
    )
    return StepTables(program, workers).fill(step).counts
