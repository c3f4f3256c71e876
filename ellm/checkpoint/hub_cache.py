"""Snapshots in the cache of huggingface_hub, whichever tool left them there and whatever its records say of them."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint import shards
from ellm.system.errors import InputError


def find(name: str) -> tuple[Path | None, str]:
    """The folder of a complete snapshot of `org/name`, or None; and what the first one that is not complete lacks.

    A snapshot is complete if it can be opened, as far as one of GGUF files is: any of them may be there. The one that
    refs/main names comes first, then the newest.
    """
    incomplete = ""
    for folder in _snapshots(name):
        if any(folder.rglob("*.gguf")):
            return folder, ""
        try:
            if not (folder / "config.json").exists():
                raise InputError(f"{folder}: has no config.json")
            shards.read_tensors(folder)
            return folder, ""
        except InputError as error:
            incomplete = incomplete or str(error)
    return None, incomplete


def _snapshots(name: str) -> list[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
    try:
        ref = storage / "refs" / "main"
        main = ref.read_text().strip() if ref.exists() else ""
        folders = [path for path in (storage / "snapshots").iterdir() if path.is_dir()]
        return sorted(folders, key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
    except (OSError, UnicodeDecodeError):
        return []
