"""Finds the line of the model that an operator was written on."""

import sys
from pathlib import Path

_HERE = f"{Path(__file__).parent}/"


def model_line() -> str:
    """Return `folder/file.py:line` of the innermost caller outside the compiler."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_HERE, "<string>")):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
