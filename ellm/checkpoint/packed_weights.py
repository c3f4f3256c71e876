"""Weights that lie in a file as they do in memory: whether they are those of a program, and their mapping."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from ellm.checkpoint.homes import Progress, Report, for_each_worker, home
from ellm.checkpoint.packed_file import WEIGHTS_AT, Header, opened
from ellm.kernels.contract import TILE_N
from ellm.kernels.layout import memory
from ellm.kernels.pack import populate
from ellm.kernels.spill import are_sound
from ellm.scheduler.contents import WeightEntry
from ellm.system.errors import InputError
from ellm.system.memory import FileMapping

if TYPE_CHECKING:
    from ellm.scheduler.placement import Placement
    from ellm.scheduler.program import Program

_NO_MATTER = ("task_tiles", "one_group", "layer", "values")  # of a WeightEntry, to its bytes


def fingerprint(weights: Sequence[WeightEntry]) -> str:
    """What is where in a weights region and made of what: a SHA-256 in hex digits.

    Of constants it says how many there are: what they are can depend on the context.
    """
    entries = []
    for weight in weights:
        entry = {name: value for name, value in asdict(weight).items() if name not in _NO_MATTER}
        for source in entry["sources"]:
            del source["line"]
        entries.append([entry, len(weight.values)])
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PackedWeights:
    """The weights in a packed file.

    Attributes:
        path: the file.
        header: its header.
        layouts: the fingerprint of what is in it but for prediction heads and, if it has any, of all.
        dtype: what matrices were packed in, as users write it; None: as they were stored.
        packings: formats whose numbers are held in others of fewer bits, and these.
        expanded: whether there are those of the program for long prompts.
        no_drafter: why there are none of prediction heads; empty if there are.
        context: of the model, where it has one of its own.
    """

    path: Path
    header: Header
    layouts: Sequence[str]
    dtype: str | None
    packings: Mapping[str, str]
    expanded: bool
    no_drafter: str
    context: int | None

    def check_fits(self, program: Program) -> None:
        """Raise InputError unless a program finds here what it looks for."""
        if fingerprint(program.weights) not in self.layouts or program.weights_bytes > self.header.weights_bytes:
            raise InputError(f"{self.path}: was packed by an ellm that lays its weights out otherwise: pack it again")

    def check_asked(self, dtype: str | None, expanded: bool) -> None:
        """Raise InputError unless it was packed as it is asked for now."""
        if dtype not in (None, self.dtype):
            raise InputError(
                f"{self.path}: dtype {dtype}: its weights are packed "
                f"{'as the checkpoint had them' if self.dtype is None else self.dtype}: pack it again for another"
            )
        if expanded and not self.expanded:
            raise InputError(f"{self.path}: was packed without expanded prefill: pack it again with --expanded-prefill")

    def map(self, program: Program, placement: Placement, progress: Progress | None = None) -> FileMapping:
        """The weights at an address, as `load_weights` would put them there, if the file is the one that was opened.

        One thread per worker, where that is, has the pages of its home in memory before this returns: those that no
        process has read since the machine was started then lie near it, and a step waits for no disk. Raises InputError
        if the file cannot be read, or is another one by now.
        """
        region = self._mapped()
        report = Report(sum(weight.bytes for weight in program.weights), progress)

        def work(worker: int, workers: int, stop: Event) -> None:
            for weight in program.weights:
                if weight.layout == "tiles":
                    self._take_home(weight, region, worker, workers, stop)
                    report.add_share(weight, worker, workers)
                elif worker == 0:
                    _write_constant(weight, region.address)
                    report.add(weight.bytes)
                if stop.is_set():
                    return

        try:
            for_each_worker(placement, work)
        except OSError as error:
            region.close()
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        except BaseException:
            region.close()
            raise
        return region

    def _mapped(self) -> FileMapping:
        with opened(self.path) as (file, header):
            if header.digest != self.header.digest:
                raise InputError(
                    f"{self.path}: is not what it was: its header has SHA-256 {header.digest} and weights of "
                    f"{header.weights_bytes} bytes, it had {self.header.digest} and {self.header.weights_bytes}"
                )
            return FileMapping(file, WEIGHTS_AT, header.weights_bytes)

    def _take_home(self, weight: WeightEntry, region: FileMapping, worker: int, workers: int, stop: Event) -> None:
        """Have what a worker owns of a weight in memory. Raises InputError if its blocks are not sound, or OSError."""
        column_bytes, end = weight.packed.column_bytes(weight.k_tiles), region.address + region.size
        for matrix, first, last in home(weight, worker, workers):
            offset = weight.offset + matrix * weight.bank_stride + first // TILE_N * column_bytes
            size = (last - first) // TILE_N * column_bytes
            populate(region.address + offset, size)
            if weight.spill_bytes and not are_sound(region.address + offset, size, end, weight.format):
                raise InputError(f"{self.path}: is damaged: {weight.name}: a block is none of {weight.format}")
            if stop.is_set():
                return


def _write_constant(weight: WeightEntry, address: int) -> None:
    """A constant of the program takes the place of another in the file, which is of another context."""
    if weight.layout == "constant":
        there, wanted = (
            memory(address + weight.offset, (len(weight.values),), np.float32),
            np.array(weight.values, np.float32),
        )
        if not np.array_equal(there.view(np.uint32), wanted.view(np.uint32)):
            there[:] = wanted
