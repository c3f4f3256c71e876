import numpy as np

from ellm.scheduler.program import Program
from ellm.scheduler.simulate import CacheState, StepWork, Workers

class Simulation:
    published_at: np.ndarray
    done_at: np.ndarray
    cause: np.ndarray
    kernel_ns: np.ndarray
    tasks: np.ndarray
    steals: np.ndarray
    memory_bytes: float
    cached_bytes: float
    last: int
    def __init__(
        self, program: Program, step: StepWork, machine: Workers, caches: CacheState, record: bool
    ) -> None: ...
    def allocate(self, events: int) -> None: ...
    def run(self) -> tuple[float, list[tuple[int, int, int, float, float]]]: ...
