"""A block of keys and values in a file: what it is of, its tokens, its bytes and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ellm.kernels.contract import SPLIT
from ellm.system.errors import InputError
from ellm.system.files import replacing

FORMAT = 1
SUFFIX = ".ellm-kv"
MOST_HEADER = 16 << 20  # bytes
_PREAMBLE = struct.Struct("<8sQ32s")  # magic, bytes of the header, their BLAKE2b
_MAGIC = b"ellm-kv\n"


@dataclass(frozen=True)
class Entry:
    """A file whose header is right: the keys and values of the last block of these tokens."""

    path: Path
    salt: str  # SHA-256 of it
    tokens: np.ndarray  # int32, all from the first on
    windows: bool  # with the caches of layers with windows
    size: int  # bytes of the file
    begin: int  # where the block's bytes begin
    digest: str  # BLAKE2b of these

    @property
    def number(self) -> int:
        """Of its block."""
        return (len(self.tokens) - 1) // SPLIT


def write(path: Path, about: Mapping[str, object], salt: str, tokens: np.ndarray, windows: bool, block: bytes) -> Entry:
    """Write a file that is there whole or not at all. Raises InputError if it cannot be written."""
    digest = hashlib.blake2b(block, digest_size=32).hexdigest()
    said = {"about": about, "salt": salt, "length": len(tokens), "windows": windows, "bytes": len(block)}
    header = json.dumps(said | {"digest": digest}).encode() + b"\n" + tokens.astype("<i4").tobytes()
    preamble = _PREAMBLE.pack(_MAGIC, len(header), hashlib.blake2b(header, digest_size=32).digest())
    with replacing(path) as part:
        os.chmod(part, 0o600)  # it is what somebody said
        with part.open("r+b") as file:
            file.writelines((preamble, header, block))
            file.flush()
            os.fsync(file.fileno())
    begin = len(preamble) + len(header)
    return Entry(path, salt, tokens, windows, begin + len(block), begin, digest)


def read(path: Path, about: Mapping[str, object]) -> Entry | None:
    """What the header of a file says; None if it is of something else. Raises InputError if it is damaged."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # whose opening might wait for ever
            raise InputError(f"{path}: is no file")
        with path.open("rb") as file:
            return _read(path, file, about)
    except FileNotFoundError:  # another process has removed it
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: Path, file: BinaryIO, about: Mapping[str, object]) -> Entry | None:
    preamble = file.read(_PREAMBLE.size)
    if len(preamble) < _PREAMBLE.size:
        raise InputError(f"{path}: is cut off: {len(preamble)} bytes of {_PREAMBLE.size}")
    magic, length, digest = _PREAMBLE.unpack(preamble)
    if magic != _MAGIC:
        raise InputError(f"{path}: is no file of keys and values")
    header = file.read(length) if length <= MOST_HEADER else b""
    if hashlib.blake2b(header, digest_size=32).digest() != digest:
        raise InputError(f"{path}: its header is damaged")
    text, _, tokens = header.partition(b"\n")
    try:
        said = json.loads(text)
        if said["about"] != about:
            return None
        begin, size = len(preamble) + length, os.fstat(file.fileno()).st_size
        found = Entry(
            path, said["salt"], np.frombuffer(tokens, "<i4"), bool(said["windows"]), size, begin, said["digest"]
        )
        whole = begin + said["bytes"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: its header is not one of ours") from error
    if size != whole or not len(found.tokens):
        raise InputError(f"{path}: is cut off: {size} bytes of {whole}")
    return found


def load(entry: Entry, pieces: Iterable[np.ndarray]) -> None:
    """Read a block's bytes into its pieces. Raises InputError if they are not what was written."""
    pieces = list(pieces)
    size = sum(piece.size for piece in pieces)
    try:
        with entry.path.open("rb") as file:
            file.seek(entry.begin)
            block = np.fromfile(file, np.uint8, size)
    except OSError as error:
        raise InputError(f"{entry.path}: cannot be read: {error.strerror}") from error
    if entry.begin + size != entry.size or hashlib.blake2b(block.data, digest_size=32).hexdigest() != entry.digest:
        raise InputError(f"{entry.path}: is damaged")
    begin = 0
    for piece in pieces:
        piece[:] = block[begin : begin + piece.size].reshape(piece.shape)
        begin += piece.size
