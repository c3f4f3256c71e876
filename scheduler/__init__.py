"""Runs a static program of tasks on pinned workers, lock-free. Knows nothing about models or graphs."""

from ellm.scheduler.pool import Pool, StepError
from ellm.scheduler.step import Executable, StepInput, Successor
from ellm.scheduler.tables import StepTables

__all__ = ["Executable", "Pool", "StepError", "StepInput", "StepTables", "Successor"]
