"""What a name stands for: a folder of safetensors or a GGUF file, downloaded if need be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ellm.checkpoint import aliases, gguf_choice
from ellm.checkpoint.folder import FILES, has_weights
from ellm.checkpoint.hub import download, is_hub_name, list_files
from ellm.system.errors import InputError


@dataclass(frozen=True)
class Found:
    """A folder or a GGUF file, and lines for the user on how it was chosen."""

    path: Path
    notes: list[str] = field(default_factory=list)


def files_of(path: Path) -> list[Path]:
    """The files that are read of what `find` found. Raises OSError if they cannot be listed."""
    if path.is_dir():
        return sorted({file for pattern in FILES for file in path.glob(pattern)})
    return [path.with_name(part) for part in gguf_choice.parts(path.name)]


def find(name: str, progress: bool = False) -> Found:
    """What an alias, a folder, a file, or a hub name stands for.

    A folder or hub name may end in ":" and a quantisation, which chooses among its GGUF files. `progress` shows a
    download's bars on stderr. Raises InputError if there is no such model, OSError if a folder cannot be read.
    """
    path = aliases.path_of(name)
    if path.is_dir():
        return _in_folder(path, None)
    if path.exists():
        return Found(path)
    base, _, quantisation = name.rpartition(":")
    if base and quantisation and Path(base).expanduser().is_dir():
        return _in_folder(Path(base).expanduser(), quantisation)
    for one, wanted in ((name, None), (base, quantisation)):
        if path.suffix != ".gguf" and not name.startswith(("/", ".", "~")) and is_hub_name(one):
            return _in_hub(one, wanted, progress)
    known = ", ".join(aliases.ALIASES)
    raise InputError(f"{name}: no such folder or file, nor an alias ({known}) or a hub name (org/name)")


def _in_folder(folder: Path, quantisation: str | None) -> Found:
    """Safetensors go before GGUF files, unless a quantisation is named; files in folders of it count if it has none."""
    paths = list(folder.glob("*.gguf")) or list(folder.glob("*/*.gguf"))
    names = [path.relative_to(folder).as_posix() for path in paths]
    if quantisation is None and (has_weights(folder) or not names):
        beside = gguf_choice.models(names)
        notes = [f"{folder}: took its safetensors; it has {beside[0]} too, to be named by its path"] if beside else []
        return Found(folder, notes)
    chosen, notes = gguf_choice.choose(names, quantisation, str(folder))
    return Found(folder / chosen, notes)


def _in_hub(name: str, quantisation: str | None, progress: bool) -> Found:
    folder = download(name, progress) if quantisation is None else download(name, progress, ["config.json"])
    if quantisation is None and has_weights(folder):
        return Found(folder)
    names = list_files(name, folder)
    if quantisation is None and not gguf_choice.models(names):
        return Found(folder)
    chosen, notes = gguf_choice.choose(names, quantisation, name)
    path = download(name, progress, gguf_choice.parts(chosen)) / chosen
    if not path.exists():
        raise InputError(f"{name}: {chosen} is not in the local cache, and cannot be had from the hub")
    return Found(path, notes)
