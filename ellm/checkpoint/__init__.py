"""Checkpoints: models at rest in a folder, in a GGUF file or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint import aliases
from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.folder import open_folder
from ellm.checkpoint.gguf import open_gguf
from ellm.checkpoint.hub import download, is_hub_name
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

_PARTS = (".safetensors", ".json", ".model", ".jinja")


def open_checkpoint(name_or_path: str | Path, *, progress: object = None) -> Checkpoint:
    """Open a model: an alias (`smollm2`), a folder, a .gguf file, or a hub name (`org/name`).

    With any `progress`, a download shows bars on stderr.

    Raises InputError if there is no such model or its files are broken.
    """
    name = str(name_or_path)
    try:
        path = aliases.path_of(name)
        if path.is_dir():
            return open_folder(path)
        if path.is_file() and path.suffix in _PARTS:
            raise InputError(f"{path}: is a part of a checkpoint; give its folder, {path.parent}")
        if path.is_file():
            return open_gguf(path)
    except OSError as error:
        raise InputError(f"{error.filename or name}: cannot be opened: {error.strerror}") from error
    if path.suffix == ".gguf" or name.startswith(("/", ".", "~")) or not is_hub_name(name):
        known = ", ".join(aliases.ALIASES)
        raise InputError(f"{name}: no such folder or file, nor an alias ({known}) or a hub name (org/name)")
    return open_folder(download(name, progress=bool(progress)))
