"""A packed file as a checkpoint: everything of it but tensors that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ellm.checkpoint import packed_tokenizer
from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.packed_file import read_header
from ellm.checkpoint.packed_weights import PackedWeights
from ellm.checkpoint.tensors import TensorInfo
from ellm.kernels.formats import FORMATS
from ellm.scheduler import plain
from ellm.system.errors import InputError, one_line


@dataclass(frozen=True)
class About:
    """What the header of a packed file says of the model.

    Attributes:
        ellm: the version that wrote it.
        source: what it was made of.
        files: name, bytes and time of change in ns of each file of that.
        layouts, dtype, packings, expanded, no_drafter, context: see `PackedWeights`.
        config, generation, notes, unused_metadata: see `Checkpoint`.
        tensors: name, dtype, whether it was in a GGUF file, and the scale of each tensor.
    """

    ellm: str
    source: str
    files: list
    layouts: list[str]
    dtype: str | None
    packings: dict[str, str]
    expanded: bool
    no_drafter: str
    context: int | None
    config: dict
    generation: dict
    notes: list[str]
    unused_metadata: list[str]
    tensors: list


def rows(tensors: Iterable[TensorInfo]) -> list[list[Any]]:
    """`About.tensors`."""
    return [[tensor.name, tensor.dtype, tensor.in_gguf, tensor.scale] for tensor in tensors]


def open_packed(path: Path) -> Checkpoint:
    """Open a packed file. Raises InputError if it was made by another version, is damaged or cut short."""
    header = read_header(path)
    try:
        about = plain.read(About, header.about, "header")
        tensors = {tensor.name: tensor for tensor in _tensors(path, about.tensors)}
        known = {format.packs: format.name for format in FORMATS.values() if format.packs}
        if not about.packings.items() <= known.items():
            raise ValueError(f"header.packings is {about.packings}, known are {known}")
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {one_line(error)}") from error
    weights = PackedWeights(
        path,
        header,
        about.layouts,
        about.dtype,
        about.packings,
        about.expanded,
        about.no_drafter,
        about.context,
    )
    checkpoint = Checkpoint(
        str(path),
        about.config,
        about.generation,
        tensors,
        lambda: packed_tokenizer.read(path, header, about.config, about.generation),
        about.unused_metadata,
        packed=weights,
    )
    checkpoint.notes += about.notes
    return checkpoint


def _tensors(path: Path, said: list[Any]) -> Iterator[TensorInfo]:
    for row in said:
        if not isinstance(row, list) or [*map(type, row)] != [str, str, bool, float]:
            raise ValueError(f"header.tensors has {row!r}, must be a name, a dtype, a truth and a number")
        name, dtype, in_gguf, scale = row
        yield TensorInfo(name, name, (), dtype, path, 0, 0, in_gguf=in_gguf, scale=scale)
