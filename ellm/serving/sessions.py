"""Keys and values in a folder, where the next start finds them."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ellm.kernels.contract import SPLIT
from ellm.serving import session_files
from ellm.serving.prefixes import Block, common_prefix
from ellm.serving.session_files import SUFFIX, Entry
from ellm.system.errors import InputError, tell

MOST_JOBS = 1000  # sequences that wait to be written
SHARE = 0.5  # of what is free on the disk, unless something else is asked for


@dataclass(frozen=True)
class Job:
    """The blocks of a sequence that has ended: all of its tokens that were computed, and where these are."""

    salt: bytes
    tokens: np.ndarray
    blocks: list[Block]


class Sessions:
    """The files of a folder: a block each, named by its tokens, all before it, their salt and what computed them.

    A thread writes them. `about` is all that the bytes of a block follow from besides; files that say otherwise are of
    something else. At most `limit` bytes are kept of files of all kinds, those that were used last. What is damaged, or
    cannot be written, is told on stderr and costs nothing else. Raises InputError if the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int | None, about: Mapping[str, object]):
        self._folder, self._about = folder, {"format": session_files.FORMAT, **about}
        self._entries: dict[str, Entry] = {}  # by name
        self._following: dict[str, list[Entry]] = {}  # by the name of what is before their blocks
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._queued = self._done = 0  # jobs, each counted by one thread
        self._content: Callable[[Block], bytes | None] = lambda block: None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk = os.statvfs(folder)
            self._limit = int(disk.f_bavail * disk.f_frsize * SHARE) if limit is None else limit
            files = sorted(folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise InputError(f"sessions: {folder}: {error.strerror}") from error
        others = 0
        for file in files:
            try:
                entry = session_files.read(file, self._about)
            except InputError as error:
                tell(f"{error}; it is ignored")
            else:
                if entry is not None and file.name == self._name(entry.salt, entry.tokens) + SUFFIX:
                    self._add(entry)
                else:
                    others += file.exists()  # else another process has removed it
        if others:
            tell(f"sessions: {folder}: {others} files are of another model, or made in another way; they are ignored")
        self._thread = threading.Thread(target=self._write, name="ellm-sessions", daemon=True)

    def start(self, content: Callable[[Block], bytes | None]) -> None:
        """Begin to write: `content` gives the bytes of a block, or None if it is not there any more."""
        self._content = content
        self._thread.start()

    def keep(self, salt: bytes, tokens: np.ndarray, blocks: list[Block]) -> None:
        """Soon write blocks of the first of int32 tokens, unless they are there."""
        if blocks and self._jobs.qsize() < MOST_JOBS:
            self._queued += 1
            self._jobs.put(Job(salt, tokens.copy(), blocks))

    @property
    def written(self) -> bool:
        """Whether nothing is left to be written. For the thread that calls `keep`."""
        return self._done == self._queued

    def next(self, salt: bytes, tokens: np.ndarray, known: int, common: int) -> Entry | None:
        """The file that goes on longest like int32 tokens behind `known` ones, whole blocks, if beyond `common`."""
        hashed = _digest(salt)
        if len(tokens) >= known + SPLIT > common:
            entry = self._entries.get(self._name(hashed, tokens[: known + SPLIT]))
            if entry is not None and np.array_equal(entry.tokens, tokens[: known + SPLIT]):
                return entry
        best, most = None, common
        for entry in self._following.get(self._name(hashed, tokens[:known]), ()):
            if (alike := common_prefix(entry.tokens, tokens)) > most:
                best, most = entry, alike
        return best

    def load(self, entry: Entry, pieces: list[np.ndarray]) -> bool:
        """Read a block to where it shall lie; whether it was whole. If not, it is not found again."""
        try:
            session_files.load(entry, pieces)
            os.utime(entry.path)
        except (InputError, OSError) as error:
            tell(f"{error}; it is ignored")
            self._forget(entry)
            return False
        return True

    def close(self) -> None:
        """Write what is still to be written."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                for block in job.blocks:
                    self._write_block(job, block)
                self._clean()
            except (InputError, OSError) as error:
                tell(f"sessions: {error}")
            self._done += 1

    def _write_block(self, job: Job, block: Block) -> None:
        salt, tokens = _digest(job.salt), job.tokens[: block.end]
        name = self._name(salt, tokens)
        path = self._folder / f"{name}{SUFFIX}"
        if name in self._entries:
            try:
                os.utime(path)
                return
            except FileNotFoundError:  # another process has removed it
                self._forget(self._entries[name])
        if (content := self._content(block)) is not None:
            self._add(session_files.write(path, self._about, salt, tokens, block.windows, content))

    def _clean(self) -> None:
        """Remove the files that were used longest ago, of whatever model, until no more than the limit are left."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                said = path.stat()
            except FileNotFoundError:  # another process has removed it
                continue
            found.append((said.st_mtime_ns, said.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= self._limit:
                break
            path.unlink(missing_ok=True)
            held -= size
            if (entry := self._entries.get(path.name.removesuffix(SUFFIX))) is not None:
                self._forget(entry)

    def _add(self, entry: Entry) -> None:
        self._entries[self._name(entry.salt, entry.tokens)] = entry
        before = self._name(entry.salt, entry.tokens[: entry.number * SPLIT])
        self._following[before] = [*self._following.get(before, ()), entry]

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(self._name(entry.salt, entry.tokens), None)
        before = self._name(entry.salt, entry.tokens[: entry.number * SPLIT])
        self._following[before] = [one for one in self._following.get(before, ()) if one is not entry]

    def _name(self, salt: str, tokens: np.ndarray) -> str:
        said = json.dumps([self._about, salt]).encode()
        return hashlib.blake2b(said + tokens.astype("<i4").tobytes(), digest_size=20).hexdigest()


def _digest(salt: bytes) -> str:
    return hashlib.sha256(salt).hexdigest()
