"""A GGUF model in several files, NAME-00001-of-00003.gguf and so on, as llama.cpp's gguf-split makes them.

The first part has the metadata of the model; each has tensors of its own, and says which part it is in `split.no`,
counted from 0, and `split.count`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ellm.checkpoint.gguf_file import GGUFFile
from ellm.system.errors import InputError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SHOWN = 3


def read_parts(path: Path) -> GGUFFile:
    """A GGUF file with, if it is the first of several parts, the tensors of all of them.

    Raises InputError if it is a later part, if one is missing or damaged, or if they do not belong together.
    """
    first = GGUFFile(path)
    number, count = _place(first)
    if number:
        raise InputError(f"{path}: is part {number + 1} of {count} of a split model: open the first, {_of(path, 1)}")
    if count == 1:
        return first
    paths = _other_parts(path, count)
    for number, other in enumerate(paths, 1):
        _add(first, GGUFFile(other), number, count)
    total = first.field("split.tensors.count", int, len(first.tensors))
    if total != len(first.tensors):
        raise InputError(f"{path}: split.tensors.count is {total}, its {count} parts have {len(first.tensors)} tensors")
    return first


def part_names(name: str) -> list[str]:
    """The names of all parts of the model that a part's name belongs to; of another file its own alone."""
    match = _PART.fullmatch(name)
    if not match:
        return [name]
    names = [f"{match[1]}-{number:05}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]
    return names if name in names else [name]


def part_number(name: str) -> int:
    """Which part of a model a name says that the file is, from 1; 1 if it says nothing."""
    match = _PART.fullmatch(name)
    return int(match[2]) if match else 1


def stem(name: str) -> str:
    """The name of a file without the ending that says which part it is, nor .gguf."""
    match = _PART.fullmatch(name)
    return match[1] if match else name.removesuffix(".gguf")


def _place(file: GGUFFile) -> tuple[int, int]:
    """Which part a file is, from 0, and of how many."""
    number, count = file.field("split.no", int, 0), file.field("split.count", int, 1)
    if not 0 <= number < max(count, 1):
        raise InputError(f"{file.path}: split.no is {number}, must be from 0 and below split.count {count}")
    return number, max(count, 1)


def _of(path: Path, number: int) -> str:
    names = part_names(path.name)
    return names[number - 1] if len(names) > 1 else f"the one with split.no {number - 1}"


def _other_parts(path: Path, count: int) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if not match or (int(match[2]), int(match[3])) != (1, count):
        wanted = f"NAME-00001-of-{count:05}.gguf"
        raise InputError(f"{path}: is part 1 of {count} of a split model, so it must be named {wanted}")
    others = [path.with_name(name) for name in part_names(path.name)[1:]]
    missing = [other.name for other in others if not other.exists()]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InputError(
            f"{path}: {len(missing)} of its {count} parts are missing beside it: {', '.join(missing[:_SHOWN])}{more}"
        )
    return others


def _add(first: GGUFFile, part: GGUFFile, number: int, count: int) -> None:
    """Take over the tensors of a later part."""
    if _place(part) != (number, count):
        found = " of ".join(str(part.metadata.get(key)) for key in ("split.no", "split.count"))
        raise InputError(f"{part.path}: split.no is {found}, the name says {number} of {count}, counted from 0")
    twice = first.tensors.keys() & part.tensors.keys()
    if twice:
        there = first.tensors[min(twice)].path
        raise InputError(f"{part.path}: tensor {min(twice)} occurs twice, it is in {there} too")
    first.tensors |= part.tensors
