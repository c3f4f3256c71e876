"""What `ellm inspect` shows besides its summary, one view an option."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from ellm.compiled import Compiled
from ellm.inspection import text
from ellm.inspection.diff import diff
from ellm.inspection.page import page
from ellm.inspection.record import record
from ellm.kernels import contract
from ellm.scheduler import saved, topology
from ellm.scheduler.program import Program
from ellm.system.errors import InputError
from ellm.system.files import check_writable, write_whole
from ellm.system.memory import readable


@dataclass(frozen=True)
class Subject:
    """A compiled model; one that was read from a file of `Program.save` is a program alone."""

    name: str
    program: Program
    compiled: Compiled | None = None  # whose program this is one of


@dataclass(frozen=True)
class Views:
    """The views that are asked for."""

    graph: bool = False
    tasks: str | None = None  # of this operator
    memory: bool = False
    json: bool = False
    dot: bool = False
    diff: str | None = None  # with this model or saved program
    html: str | None = None  # to this file
    save: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError for views that cannot be printed one after the other."""
        alone, others = (
            [f"--{name}" for name in names if self._given(name)]
            for names in (("json", "dot", "diff"), ("graph", "tasks", "memory"))
        )
        if alone and len(alone + others) > 1:
            raise InputError(f"{' and '.join(alone + others)} cannot be printed together")

    @property
    def wanted(self) -> bool:
        """Whether there is any."""
        return any(self._given(one.name) for one in fields(self))

    def _given(self, name: str) -> bool:
        return getattr(self, name) not in (None, False)

    def write(self, subject: Subject) -> list[str]:
        """Write the files, and say so. Raises InputError if one cannot be written."""
        lines = []
        if self.save is not None:
            lines.append(save(subject.program, check_writable(self.save)))
        if self.html is not None:
            content = page(subject.program, subject.name, topology.choose_cores(None)).encode(errors="replace")
            write_whole(check_writable(self.html), content)
            lines.append(f"wrote {self.html}: {readable(len(content))}")
        return lines

    def lines(self, subject: Subject, other: Subject | None) -> list[str]:
        """The views in text. `other` is what to compare with."""
        program, cores = subject.program, topology.choose_cores(None)
        lines: list[str] = []
        if self.graph:
            lines += ["GRAPH (fused)", program.graph.rstrip()]
        if self.tasks is not None:
            lines += text.tasks(program, self.tasks, cores)
        if self.memory:
            lines += text.buffers(program)
        if self.json:
            lines.append(json.dumps(record(program, subject.name, cores)))
        if self.dot:
            lines += text.dot(program, subject.name)
        if other:
            lines += diff(program, other.program)
        return lines


def save(program: Program, path: Path) -> str:
    """Save a program and say so. Raises InputError if that cannot be done."""
    try:
        saved.save(program, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return f"wrote {path}: the program, to inspect or compare with later"


def load(path: Path) -> Subject:
    """A saved program. Raises InputError if the file is not one."""
    try:
        program = saved.load(path)
        program.check()
    except ValueError as error:
        raise InputError(str(error)) from error
    if len(program.operators) != len(program.op_names):
        counts = f"{len(program.operators)} of its {len(program.op_names)} operators"
        raise InputError(f"{path}: not a saved program of a model: it says what {counts} are")
    unknown = set(program.kernels) - set(contract.FIELDS)
    if unknown:
        raise InputError(f"{path}: this version has no kernels {', '.join(sorted(unknown))}")
    return Subject(path.name, program)
