"""A tokenizer in a packed file: the metadata of its GGUF file, or the files of its folder as they are.

What the package `tokenizers` writes of a tokenizer would not do: it is not always that tokenizer.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ellm.checkpoint.gguf_metadata import Metadata
from ellm.checkpoint.gguf_tokenizer import build_tokenizer
from ellm.checkpoint.packed_file import Header, read_member
from ellm.system.errors import InputError, one_line

if TYPE_CHECKING:
    from ellm.checkpoint.checkpoint import Checkpoint
    from ellm.text.tokenizer import Tokenizer

_METADATA, _FILES = "metadata", "tokenizer/"
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")  # of surrogates, escaped: whole characters are not


def members(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Name and content of what holds a checkpoint's tokenizer. Raises OSError."""
    from ellm.checkpoint.folder import TOKENIZER_FILES

    if checkpoint.metadata:
        yield _METADATA, json.dumps(dict(checkpoint.metadata), ensure_ascii=False).encode()
        return
    folder = Path(checkpoint.source)
    for path in sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}):
        yield _FILES + path.relative_to(folder).as_posix(), path.read_bytes()


def read(path: Path, header: Header, config: dict[str, Any], generation: dict[str, Any]) -> Tokenizer:
    """The tokenizer in a packed file; TokenIds if there is none. Raises InputError if it is broken."""
    if _METADATA in header.members:
        return build_tokenizer(Metadata(path, _read_metadata(path, read_member(path, header, _METADATA))))
    from ellm.checkpoint import folder

    with tempfile.TemporaryDirectory(prefix="ellm-") as place:
        for name in header.members:
            if name.startswith(_FILES):
                _unpack(path, header, name, Path(place))
        try:
            return folder.build_tokenizer(Path(place), config, generation, str(path))
        except InputError as error:
            raise InputError(str(error).replace(place, str(path))) from error


def _read_metadata(path: Path, data: bytes) -> dict[str, Any]:
    try:
        if (b"\\ud" in data or b"\\uD" in data) and _HALF_PAIR.search(data):  # the first takes no time
            raise ValueError("a text in it is not Unicode")
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged: its metadata: {one_line(error)}") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: is damaged: its metadata is {type(metadata).__name__}, must be an object")
    return metadata


def _unpack(path: Path, header: Header, member: str, folder: Path) -> None:
    """Write a file of a tokenizer into a folder. Raises InputError if it is none, or cannot be written."""
    from ellm.checkpoint.folder import TOKENIZER_FILES

    name = PurePosixPath(member.removeprefix(_FILES))
    known = (PurePosixPath(pattern) for pattern in TOKENIZER_FILES)
    if not any(name.parts[:-1] == one.parts[:-1] and name.match(one.name) for one in known) or not member.isprintable():
        raise InputError(f"{path}: is damaged: {str(name)!r} is no file of a tokenizer")
    try:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(read_member(path, header, member))
    except OSError as error:
        raise InputError(f"{path}: {str(name)!r} cannot be unpacked to {folder}: {error.strerror}") from error
