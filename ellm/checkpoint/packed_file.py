"""The file of a packed model: weights as they lie in memory, and beside them what else it takes to run it.

    page 0               magic, version, where the header is, and its SHA-256 (`_PREAMBLE`)
    from WEIGHTS_AT on   the weights region, byte for byte
    behind it            members by name: bytes that the header has the SHA-256 of
    at the end           the header, a JSON object

Nothing in it depends on the instruction set, the number of workers or the context. The header is checked against its
SHA-256 whenever a file is opened, so it says what was written, but that may have been by anybody: its numbers are
checked against the file. The weights are checked when asked for (`verify`), since to read them all takes its time.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ellm.system import files
from ellm.system.errors import InputError, one_line

LAYOUT = 2
"""What the bytes of packed weights mean, and the header's form: to be raised whenever either changes."""
MAGIC = b"\x89ellm\r\n\x1a"  # no text, and broken by what takes it for one
WEIGHTS_AT = 1 << 21  # bytes: the size of a huge page, as which file systems that can will map it
PIECE = 1 << 26  # bytes of weights that have a checksum in common, but for the last ones written at a time
_PREAMBLE = struct.Struct("<8sQQQ32s")  # magic, layout, offset and bytes of the header, its SHA-256
_LARGEST_HEADER = 256 << 20
_HOLE = 1 << 16  # zeros in pieces of so many bytes are not written: what was never touched takes no place on the disk

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Header:
    """What a packed file says of itself.

    Attributes:
        about: of the model; `ellm.checkpoint.packed` knows its fields.
        weights_bytes: size of the weights region.
        pieces: offset in it, bytes and SHA-256 in hex digits of its parts, one after the other.
        members: offset in the file, bytes and SHA-256 of each.
        digest: SHA-256 of all this.
    """

    about: dict[str, Any]
    weights_bytes: int
    pieces: list[tuple[int, int, str]]
    members: dict[str, tuple[int, int, str]]
    digest: str


def is_packed(path: Path) -> bool:
    """Whether a file begins as a packed one. Raises OSError."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> Header:
    """The header of a packed file. Raises InputError if it was made by another version, is damaged or cut short."""
    with opened(path) as (_, header):
        return header


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    """A packed file and its header. Raises InputError as `read_header` does, and if it cannot be read meanwhile."""
    try:
        if path.exists() and not is_packed(path):
            raise InputError(f"{path}: is no packed model")
        with path.open("rb") as file:
            yield file, _read_header(path, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read_header(path: Path, file: BinaryIO) -> Header:
    preamble = file.read(_PREAMBLE.size)
    size = os.fstat(file.fileno()).st_size
    if len(preamble) < _PREAMBLE.size:
        raise InputError(f"{path}: is truncated: it has {size} bytes")
    _, layout, offset, length, digest = _PREAMBLE.unpack(preamble)
    if layout != LAYOUT:
        raise InputError(f"{path}: was packed in layout {layout}, this ellm has {LAYOUT}: pack it again")
    if offset + length != size or not 0 < length <= _LARGEST_HEADER:
        raise InputError(f"{path}: is damaged: it has {size} bytes, its header ends at {offset + length}")
    file.seek(offset)
    data = file.read(length)
    if hashlib.sha256(data).digest() != digest:
        raise InputError(f"{path}: is damaged: its header is not as it was written")
    try:
        return _header(json.loads(data), offset, digest.hex())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged: its header: {one_line(error)}") from error


def _header(said: Any, end: int, digest: str) -> Header:
    """Raises one of several errors if it does not fit what lies before it."""
    weights, members = said["weights"], {str(name): _place(place) for name, place in said["members"].items()}
    pieces, size = [_place(place) for place in weights["pieces"]], weights["bytes"]
    begins = [0, *(begin + length for begin, length, _ in pieces)]
    if type(size) is not int or [begin for begin, _, _ in pieces] + [size] != begins or WEIGHTS_AT + size > end:
        raise ValueError(f"weights of {size!r} bytes are not what its pieces are or the file has room for")
    for name, (begin, length, _) in members.items():
        if begin < WEIGHTS_AT + size or begin + length > end:
            raise ValueError(f"{name} is at {begin} with {length} bytes")
    if not isinstance(said["about"], dict):
        raise TypeError("about is no object")
    return Header(said["about"], size, pieces, members, digest)


def _place(value: Any) -> tuple[int, int, str]:
    begin, length, digest = value
    if type(begin) is not int or type(length) is not int or type(digest) is not str or begin < 0 or length < 0:
        raise ValueError(f"{one_line(value)} is no place")
    return begin, length, digest


def read_member(path: Path, header: Header, name: str) -> bytes:
    """The bytes of a member. Raises InputError if there is none or it is damaged."""
    if name not in header.members:
        raise InputError(f"{path}: is damaged: it has no {name}")
    begin, length, digest = header.members[name]
    try:
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"{path}: is damaged: its {name} is not as it was written")
    return data


def verify(path: Path, progress: Progress | None = None) -> Header:
    """Read all of a packed file. Raises InputError, saying where, if anything in it is not as it was written."""
    header = read_header(path)
    for name in header.members:
        read_member(path, header, name)
    done = 0
    with path.open("rb") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0)), "ellm-verify") as pool:

        def good(piece: tuple[int, int, str]) -> bool:
            begin, length, digest = piece
            return hashlib.sha256(_read(file.fileno(), WEIGHTS_AT + begin, length)).hexdigest() == digest

        try:
            for (begin, length, _), as_written in zip(header.pieces, pool.map(good, header.pieces), strict=True):
                if not as_written:
                    raise InputError(
                        f"{path}: is damaged: bytes {WEIGHTS_AT + begin} to {WEIGHTS_AT + begin + length}, of its "
                        f"weights, are not as they were written"
                    )
                done += length
                if progress:
                    progress(done, header.weights_bytes)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return header


def _read(file: int, offset: int, length: int) -> bytearray:
    """These bytes, or those before the end of the file."""
    data = bytearray(length)
    got = 0
    while got < length and (count := os.preadv(file, [memoryview(data)[got:]], offset + got)):
        got += count
    return data[:got]


@dataclass
class Writer:
    """Writes a packed file, from the front to the back. Everything raises OSError."""

    _file: int
    _weights: int = 0  # bytes so far
    _pieces: list[tuple[int, int, str]] = field(default_factory=list)
    _members: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    _end: int = WEIGHTS_AT

    def add_weights(self, data: np.ndarray) -> None:
        """Append to the weights region: uint8 [bytes]. Zeros of some length stay holes of the file."""
        places = range(0, len(data), PIECE)
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "ellm-write")
        try:
            digests = pool.map(lambda begin: self._write_piece(data[begin : begin + PIECE], begin), places)
            for begin, digest in zip(places, digests, strict=True):
                length = min(PIECE, len(data) - begin)
                self._pieces.append((self._weights + begin, length, digest))
        finally:
            pool.shutdown(cancel_futures=True)
        self._weights += len(data)
        self._end = WEIGHTS_AT + self._weights

    def _write_piece(self, data: np.ndarray, begin: int) -> str:
        for first, last in _filled(data):
            _write(self._file, WEIGHTS_AT + self._weights + begin + first, data[first:last].data)
        return hashlib.sha256(data.data).hexdigest()

    def add_member(self, name: str, data: bytes) -> None:
        """Append a member. Only behind the weights."""
        _write(self._file, self._end, data)
        self._members[name] = self._end, len(data), hashlib.sha256(data).hexdigest()
        self._end += len(data)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Append the header and, when all is on the disk, write the begin."""
        weights = {"bytes": self._weights, "pieces": self._pieces}
        data = json.dumps({"about": about, "weights": weights, "members": self._members}).encode()
        if len(data) > _LARGEST_HEADER:
            raise ValueError(f"the header would have {len(data)} bytes")
        _write(self._file, self._end, data)
        os.fsync(self._file)
        digest = hashlib.sha256(data).digest()
        _write(self._file, 0, _PREAMBLE.pack(MAGIC, LAYOUT, self._end, len(data), digest))
        os.fsync(self._file)


def _filled(data: np.ndarray) -> Iterator[tuple[int, int]]:
    """From which to which byte data is not zeros of some length. What is written at once is cached in large pages."""
    first = 0
    for begin in range(0, len(data), _HOLE):
        if not data[begin : begin + _HOLE].any():
            if first < begin:
                yield first, begin
            first = begin + _HOLE
    if first < len(data):
        yield first, len(data)


def _write(file: int, offset: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        count = os.pwrite(file, left, offset)
        left, offset = left[count:], offset + count


def check_writable(name: str) -> Path:
    """The file of this name, to pack to. Raises InputError if it cannot be written, or is there and something else."""
    path = files.check_writable(name)
    if path.exists() and not is_packed(path):
        raise InputError(f"{path}: is there and no packed model: it is not overwritten")
    return path


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """What writes a packed file, which is there once it is whole; of one that is interrupted nothing is left.

    Raises InputError if it cannot be written.
    """
    with files.replacing(path) as part, part.open("wb") as file:
        yield Writer(file.fileno())
