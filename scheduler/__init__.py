"""Runs a static program of tasks on pinned workers, lock-free. Knows nothing about models or graphs."""

from ellm.scheduler.pool import Executable, Pool, StepError
from ellm.scheduler.tables import StepTables

from ellm.scheduler.step import StepInput

__all__ = ["Executable", "Pool", "StepError", "StepInput", "StepTables"]
