"""Arrays in a file that is as it was written, or refused: an .npz whose comment is a checksum of all before it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

_MARK = b"sha256 "
_COMMENT = len(_MARK) + 2 * hashlib.sha256().digest_size


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by their names. Raises OSError."""
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, array in arrays.items():
            member = BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
        archive.comment = bytes(_COMMENT)
    data = whole.getvalue()[:-_COMMENT]
    with open(path, "wb") as file:
        file.write(data + _checksum(data))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `write` wrote. Raises OSError, or ValueError if a byte of it is another, was added or is missing."""
    with open(path, "rb") as file:
        size = file.seek(0, 2) - _COMMENT
        file.seek(max(0, size))
        said = file.read()
        if size < 0 or not said.startswith(_MARK):  # seen before all of what may be something else is read
            raise ValueError("it has no checksum at its end: it is something else, or was cut short")
        file.seek(0)
        data = file.read(size)
    if said != _checksum(data):
        raise ValueError("it was changed, as its checksum says")
    try:
        with zipfile.ZipFile(BytesIO(data + said)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):  # could be far more than `size`
                raise ValueError("its arrays are compressed")
            arrays = {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, MemoryError) as error:
        raise ValueError(f"it is no archive of arrays: {error}") from error
    if len(arrays) != len(members):
        raise ValueError("two of its arrays have one name")
    return arrays


def _array(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(BytesIO(data), allow_pickle=False)


def _checksum(data: bytes) -> bytes:
    return _MARK + hashlib.sha256(data).hexdigest().encode()
