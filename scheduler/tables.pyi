import numpy as np

from ellm.scheduler.program import Program
from ellm.scheduler.step import StepInput

class StepTables:
    program: Program
    tokens: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    ranges: np.ndarray
    blocks: np.ndarray
    logit_row: np.ndarray
    logits: np.ndarray
    sampling: np.ndarray | None
    sampled: np.ndarray | None
    logprob: np.ndarray | None
    input_rows: np.ndarray | None
    counts: np.ndarray
    item_begin: list[np.ndarray]
    merge_begin: list[np.ndarray]
    def __init__(self, program: Program, workers: int, domains: int = 1) -> None: ...
    def fill(self, step: StepInput) -> StepTables: ...
    @property
    def rows(self) -> int: ...
    @property
    def logit_rows(self) -> int: ...
    @property
    def sample_rows(self) -> int: ...
    @property
    def items(self) -> list[np.ndarray]: ...
    @property
    def merges(self) -> list[np.ndarray]: ...

def set_ready(flags: np.ndarray, begin: int, end: int) -> None: ...
