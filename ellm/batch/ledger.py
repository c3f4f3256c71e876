"""The output of a batch, which survives the end of its process at any moment, and of the machine."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from ellm.batch.answers import ANSWERED, Answers
from ellm.system.errors import InputError

SUFFIX = ".unfinished"
SLACK = 1 << 20  # bytes of answers that are in the output too, which the file beside it may hold


class Full(InputError):
    """The answers could not be written; what was written before is whole."""


class Tally:
    """How many answers are in the output, how many of these are errors, and the first of them."""

    def __init__(self) -> None:
        self.lines, self.errors = 0, 0
        self.first_error: str | None = None

    def add(self, number: int, line: bytes) -> None:
        """Count the answer to a line."""
        self.lines += 1
        if ANSWERED not in line:
            self.errors += 1
            if self.first_error is None:
                message = json.loads(line)["response"]["body"]["error"]["message"]
                self.first_error = f"line {number}: {message}"


class Ledger:
    """`out` holds the answers of the first lines, in order; a file beside it those that others finished before.

    An answer is in one of both, synced, when `record` returns. The file beside `out` begins with what decides on the
    answers (`about`), so that nobody goes on with other input, another model or other settings; it is gone in the end.
    `lines` has the numbers of the lines that are requests. Raises InputError if the files are of another batch, or in
    use.
    """

    def __init__(self, out: Path, about: Mapping[str, str], answers: Answers, lines: Iterable[tuple[int, object]]):
        self.path, self.beside = out, out.with_name(out.name + SUFFIX)
        self.tally = Tally()
        self._about, self._answers = dict(about), answers
        self._order: deque[int] = deque()  # lines that are handed out and not yet in the output
        self._kept: dict[int, tuple[int, int]] = {}  # where the answers of lines begin in the file beside it, and bytes
        if out.exists() and not out.is_file():
            raise InputError(f"{out}: is not a file, so a batch could not be gone on with")
        with self._writing():
            self._out = out.open("a+b", buffering=0)
        try:
            self._lock()
            self._check_about()
            last = self._check_out(iter(lines))
            with self._writing():
                self._side = self._rewritten(self._found(last))
        except BaseException:
            self._out.close()
            raise

    @property
    def done(self) -> int:
        """How many requests are answered."""
        return self.tally.lines + len(self._kept)

    def expect(self, number: int) -> bool:
        """The next line of the input is this one. Whether it must be answered: a run before may have done it."""
        self._order.append(number)
        return number not in self._kept

    def record(self, answers: Mapping[int, bytes]) -> None:
        """Keep the answers to lines that are expected. Raises Full if there is no room for them."""
        new = dict(answers)
        with self._writing():
            for number in self._next(new):
                line = new.pop(number) if number in new else self._read(number)
                _append(self._out, line)
                self._kept.pop(number, None)
                self.tally.add(number, line)
            for number, line in new.items():
                at = self._side_bytes()
                _append(self._side, line)
                self._kept[number] = at, len(line)
            os.fsync(self._out.fileno())
            if new:
                os.fsync(self._side.fileno())
            if self._side_bytes() > 2 * sum(size for _, size in self._kept.values()) + SLACK:
                self._compact()

    def finish(self) -> None:
        """Every line is answered and in the output."""
        assert not self._order and not self._kept
        with self._writing():
            self.beside.unlink()

    def close(self) -> None:
        """Leave the files as they are."""
        self._side.close()
        self._out.close()

    def _next(self, new: Mapping[int, bytes]) -> Iterator[int]:
        while self._order and (self._order[0] in new or self._order[0] in self._kept):
            yield self._order.popleft()

    def _read(self, number: int) -> bytes:
        at, size = self._kept[number]
        return os.pread(self._side.fileno(), size, at)

    def _side_bytes(self) -> int:
        return os.fstat(self._side.fileno()).st_size

    def _compact(self) -> None:
        """Leave out what is in the output too."""
        old = self._side
        self._side = self._rewritten((number, self._read(number)) for number in self._kept)
        old.close()

    def _rewritten(self, answers: Iterable[tuple[int, bytes]]) -> IO[bytes]:
        """The file beside the output, anew and open, with these answers alone."""
        part = self.beside.with_name(self.beside.name + ".part")
        kept = {}
        file = part.open("w+b", buffering=0)
        try:
            _append(file, json.dumps(self._about).encode() + b"\n")
            for number, line in answers:
                kept[number] = os.fstat(file.fileno()).st_size, len(line)
                _append(file, line)
            os.fsync(file.fileno())
            part.replace(self.beside)
            _sync_folder(self.beside.parent)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self._kept = kept
        return file

    def _lock(self) -> None:
        try:
            fcntl.flock(self._out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self.path}: another ellm batch is writing it") from error

    def _check_about(self) -> None:
        """Raise InputError if the file beside the output is of another batch, and there are answers."""
        if not self.beside.exists():
            return
        with self.beside.open("rb") as file:
            try:
                theirs = json.loads(file.readline())
                assert isinstance(theirs, dict)
            except (ValueError, AssertionError) as error:
                raise InputError(f"{self.beside}: is not of an ellm batch") from error
            if not file.read(1) and not os.fstat(self._out.fileno()).st_size:
                return
        for name in {**theirs, **self._about}:
            was, now = theirs.get(name), self._about.get(name)
            if was != now:
                raise InputError(
                    f"{self.path}: was begun with {name} {was}, not {now}: "
                    f"go on with that, or remove it and {self.beside.name}"
                )

    def _check_out(self, lines: Iterator[tuple[int, object]]) -> int:
        """Count the answers that are there, and cut off a last one that is not whole. The number of the last line."""
        whole = last = 0
        with self.path.open("rb") as file:
            for line in file:
                number = next(lines, (0, None))[0]
                begin = self._answers.begin(number)
                ended = line.endswith(b"\n")
                if not number or not (line.startswith(begin) or (not ended and begin.startswith(line))):
                    raise InputError(
                        f"{self.path}: line {self.tally.lines + 1} is of no batch with this input, model and settings: "
                        "remove the file, or name another one"
                    )
                if not ended:
                    break
                whole, last = whole + len(line), number
                self.tally.add(number, line)
        self._out.truncate(whole)
        return last

    def _found(self, last: int) -> Iterator[tuple[int, bytes]]:
        """The whole answers in the file beside the output, to lines behind the last one that is in the output."""
        if not self.beside.exists():
            return
        with self.beside.open("rb") as file:
            file.readline()
            for line in file:
                number = self._answers.number(line)
                if number > last and line.endswith(b"\n"):
                    yield number, line

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Full(f"{self.path}: cannot be written: {error.strerror}") from error


def _append(file: IO[bytes], line: bytes) -> None:
    """Write all of a line, or nothing if that is possible."""
    at = os.fstat(file.fileno()).st_size
    left = memoryview(line)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(at)
        raise


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
