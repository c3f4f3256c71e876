"""Checkpoints by name, `org/name`, from the Hugging Face hub or its local cache."""

from __future__ import annotations

import glob
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ellm.checkpoint import hub_cache
from ellm.checkpoint.folder import FILES
from ellm.system.errors import InputError, one_line

Result = TypeVar("Result")

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether this has the form `org/name`."""
    return _NAME.fullmatch(name) is not None


def download(name: str, progress: bool = True, files: Sequence[str] = FILES) -> Path:
    """The folder of a model's snapshot, `files` downloaded unless they are cached; `progress` shows bars on stderr.

    HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are respected; where the hub cannot be asked, a complete snapshot
    in the cache serves, whoever left it there. Raises InputError if the model cannot be had.
    """
    import huggingface_hub  # slow to import, and only a hub name needs it
    from huggingface_hub.utils import tqdm

    warnings.filterwarnings("ignore", "Not enough free disk space", module="huggingface_hub")  # an error follows
    huggingface_hub.utils.logging.set_verbosity_error()  # that no file matched is for us to judge

    class Bar(tqdm):  # type: ignore[type-arg,misc]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": kwargs.get("disable") or not progress})

    try:
        patterns = [glob.escape(file) if "*" not in file else file for file in files]
        work = partial(huggingface_hub.snapshot_download, name, allow_patterns=patterns, tqdm_class=Bar)
        return Path(_interruptible(work))
    except Exception as error:  # network, proxy, disk: each of its HTTP libraries has its own
        folder, incomplete = hub_cache.find(name)
        if folder is not None:
            return folder
        raise InputError(f"{name}: {_refusal(error, incomplete)}") from error


def _refusal(error: Exception, incomplete: str) -> str:
    """Why a model cannot be had; `incomplete` is what is missing from the cache's snapshot, if there is one."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "access is restricted: accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "no such folder, file or alias here, and no such model on the hub"
    if isinstance(error, LocalEntryNotFoundError):
        where = f"not complete in the local cache ({incomplete})" if incomplete else "not in the local cache"
        return f"{where}, and cannot be had from the hub: {one_line(error.__cause__ or error)}"
    return f"download to {HF_HUB_CACHE} failed: {type(error).__name__}: {one_line(error)}"


def list_files(name: str, folder: Path) -> list[str]:
    """Paths of the files of a repository; those in `folder`, its cached snapshot, if the hub does not answer."""
    import huggingface_hub

    try:
        return _interruptible(partial(huggingface_hub.HfApi().list_repo_files, name))
    except Exception:  # as in `download`, which has said what there is to say
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _interruptible(work: Callable[[], Result]) -> Result:
    """The result of `work`, done by another thread: Ctrl-C must not wait for the network, as snapshot_download does."""
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():  # in turns: Ctrl-C does not end a wait if another thread got the signal
        thread.join(0.1)
    if failed:
        raise failed[0]
    return done[0]
