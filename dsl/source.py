"""Finds the line of the model that an operator was written on."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_HERE = f"{Path(__file__).parent}/"
_TRACE = f"{_HERE}trace.py"
_COMPOSITES = "__composites__"  # what a module of functions that models share has


def model_line() -> str:
    """Return `folder/file.py:line` of the innermost caller outside the compiler."""
    return _line(next(frame for frame in _callers() if not _is_compiler(frame)))


def error_line(line: str | None = None) -> str:
    """Return what an error begins with: `line`, by default that of `model_line`.

    While a model is traced, if the line is in a module with `__composites__`, such as models/layers.py, the line of the
    model that called there comes first: "models/qwen3.py:27: models/layers.py:40".
    """
    line, author = line or model_line(), None
    for frame in _callers():
        if frame.f_code.co_filename == _TRACE:
            return line if author in (None, line) else f"{author}: {line}"
        if author is None and not _is_compiler(frame) and _COMPOSITES not in frame.f_globals:
            author = _line(frame)
    return line


def _callers() -> Iterator[FrameType]:
    """The frames of this module's caller and outwards."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_compiler(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((_HERE, "<string>"))


def _line(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
