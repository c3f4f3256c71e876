"""What a running model is doing at this moment, for whoever watches it.

Everything is a level, or a count that only grows: who asks twice divides what came between by the seconds between, so
any number of watchers see the truth, and nothing is measured for them.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ellm.scheduler.program import Program
from ellm.serving.runtime import Runtime

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_WORKER = re.compile(r"\d+ \(ellm-(\d+)\) (.*)", re.DOTALL)
_USER, _SYSTEM = 11, 12  # fields of a thread's stat after its name (proc(5))


@dataclass(frozen=True)
class ExpertLayer:
    """A layer with experts, and the groups that begin their work: number `first` is that of expert 0."""

    name: str
    first: int
    experts: int

    def woken(self, ran: np.ndarray) -> list[int]:
        """The experts that got rows, if these groups ran."""
        return np.unique(ran[(ran >= self.first) & (ran < self.first + self.experts)] - self.first).tolist()


def expert_layers(program: Program) -> list[ExpertLayer]:
    """The layers with experts, in order; none of a dense model."""
    operators, found = program.groups["op"], []
    for waker, first in zip(program.wakes["group"].tolist(), program.wakes["first"].tolist(), strict=True):
        name = program.op_names[operators[waker]].rpartition(".")[0]
        found.append(ExpertLayer(name, first, int((operators == operators[first]).sum())))
    return found


def worker_seconds() -> dict[int, float]:
    """The processor time that each worker of this process has taken so far, in seconds, by its number."""
    found, tick = {}, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc/self/task").glob("*/stat"):
        try:
            worker = _WORKER.match(path.read_text(errors="replace"))
        except OSError:  # the thread has ended
            continue
        if worker:
            fields = worker[2].split()
            found[int(worker[1])] = (int(fields[_USER]) + int(fields[_SYSTEM])) / tick
    return found


class Status:
    """Tells what a runtime is doing."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._layers = expert_layers(runtime.program)

    def now(self, statistics: DataclassInstance) -> dict[str, Any]:
        """A JSON object. Steps take no longer for it, but it may wait for the end of one.

        `seconds`: the clock; `context`; `statistics`: the fields of those given; `cores`: of each worker its core
        (None if it is not pinned) and the processor time that it has taken, in seconds; `experts`: of each layer that
        has some its name, their number, and which got rows in the last step, or None of a dense model.
        """
        pool, taken = self._runtime.pool, worker_seconds()
        cores = pool.cores if pool.pinned else [None] * pool.threads
        return {
            "seconds": time.monotonic(),
            "context": self._runtime.context,
            "statistics": asdict(statistics),
            "cores": [{"core": core, "seconds": taken.get(number, 0.0)} for number, core in enumerate(cores)],
            "experts": self._experts(),
        }

    def _experts(self) -> list[dict[str, Any]] | None:
        if not self._layers:
            return None
        executables = self._runtime.executables  # none while the model is given back
        ran = executables[0].ran() if executables else np.empty(0, np.int64)
        return [{"name": one.name, "experts": one.experts, "woken": one.woken(ran)} for one in self._layers]
