"""Checkpoints: models at rest in a folder, in a GGUF file, packed or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint import aliases, packed_file
from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.packed import open_packed
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

_PARTS = (".safetensors", ".json", ".model", ".jinja")


def open_checkpoint(name_or_path: str | Path, *, progress: object = None) -> Checkpoint:
    """Open a model: an alias (`smollm2`), a folder, a GGUF file, a packed file, or a hub name (`org/name`).

    A folder or hub name may end in ":" and a quantisation, as in `org/name:Q4_K_M`, which chooses among its GGUF files.
    With any `progress`, a download shows bars on stderr.

    Raises InputError if there is no such model or its files are broken.
    """
    name = str(name_or_path)
    try:
        path = aliases.path_of(name)
        return open_packed(path) if packed_file.is_packed(path) else _open_unpacked(name, bool(progress))
    except OSError as error:
        raise InputError(f"{error.filename or name}: cannot be opened: {error.strerror}") from error


def _open_unpacked(name: str, progress: bool) -> Checkpoint:
    from ellm.checkpoint.folder import open_folder  # these take longer to import than a packed model to start
    from ellm.checkpoint.gguf import open_gguf
    from ellm.checkpoint.names import find

    found = find(name, progress)
    if found.path.is_file() and found.path.suffix in _PARTS:
        raise InputError(f"{found.path}: is a part of a checkpoint; give its folder, {found.path.parent}")
    checkpoint = open_folder(found.path) if found.path.is_dir() else open_gguf(found.path)
    checkpoint.notes[:0] = found.notes
    return checkpoint
