"""Reads tokenizer.json and checks what would make the `tokenizers` package panic, which prints a trace on stderr."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ellm.checkpoint.json_file import check_file, read_json
from ellm.system.errors import InputError, one_line
from ellm.text.package_errors import refusing

# Where neither is found there is no prefix: no key says so, and none of its letters is written as an escape.
_PREFIXES = re.compile(rb'"continuing_subword_prefix"\s*:\s*(?!null|""|\s)'), re.compile(rb"\\u00[567]")
_MANY_DIGITS = re.compile(rb"\d{8}")  # as ids of _MOST_TOKENS and more have
_MOST_TOKENS = 1 << 24


def read(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a file. Raises InputError if it is broken, or has a prefix of inner pieces."""
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if any(pattern.search(data) for pattern in _PREFIXES):
        _check_prefix(path)
    with refusing(f"{path}: broken tokenizer"):
        backend = tokenizers.Tokenizer.from_buffer(data)
    if _MANY_DIGITS.search(data):
        check_ids(path, backend.get_vocab())
    for step in _steps(backend.normalizer):
        if step["type"] == "Precompiled":
            check_charsmap(path, base64.b64decode(step["precompiled_charsmap"]))
    for step in _steps(backend.post_processor):
        if step["type"] == "TemplateProcessing":
            _check_template(path, step)
    return backend


def check_ids(path: Path, ids: Mapping[str, int]) -> None:
    """Refuse ids that no model has: the package counts up to the highest when it writes a tokenizer. InputError."""
    token, highest = max(ids.items(), key=lambda item: item[1], default=("", 0))
    if highest >= _MOST_TOKENS:
        shown = one_line(repr(token), 60)
        raise InputError(f"{path}: token {shown} has the id {highest}, must be below {_MOST_TOKENS}")


def _check_prefix(path: Path) -> None:
    """Refuse BPE whose right sides are cut by a prefix: if they cannot be, the package aborts the process."""
    model = read_json(path).get("model")
    model = model if isinstance(model, dict) else {}
    prefix = model.get("continuing_subword_prefix")
    if prefix and model.get("type") != "WordPiece":
        raise InputError(f"{path}: continuing_subword_prefix is {one_line(repr(prefix), 60)}, must be empty")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A normalizer or post-processor, and those that it is a sequence of, as tokenizer.json has them."""
    left = [json.loads(part.__getstate__())] if part else []
    while left:
        step = left.pop()
        left += [*step.get("processors", ()), *step.get("normalizers", ())]
        yield step


def _check_template(path: Path, step: Mapping[str, Any]) -> None:
    named = {part["SpecialToken"]["id"] for part in step["single"] + step["pair"] if "SpecialToken" in part}
    if missing := named - step["special_tokens"].keys():
        raise InputError(
            f"{path}: post_processor: the template has {one_line(repr(min(missing)))}, which special_tokens lacks"
        )


def check_charsmap(path: Path, charsmap: bytes) -> None:
    """Raise InputError if SentencePiece's normalisation leads out of its own tables.

    They are the size of a double array in bytes, its units, and the texts in UTF-8 that it leads to, each with a NUL at
    its end (sentencepiece, src/normalizer.cc; a unit is as in darts.h of darts-clone).
    """
    size = int.from_bytes(charsmap[:4], "little")
    stored, texts = charsmap[4 : 4 + size], charsmap[4 + size :]
    units = np.frombuffer(stored[: len(stored) // 4 * 4], "<u4")
    inner = units >> 31 == 0
    first = np.arange(len(units), dtype=np.uint32) ^ (units >> 10 << ((units & 0x200) >> 6))
    values = units[~inner] & 0x7FFFFFFF
    begins = np.ones(len(texts) + 1, bool)
    begins[:-1] = np.frombuffer(texts, np.uint8) & 0xC0 != 0x80  # of characters
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: precompiled_charsmap is not in UTF-8: {one_line(error)}") from error
    if (
        size != 4 * len(units)
        or not len(units)
        or (first[inner] | 0xFF).max(initial=0) >= len(units)
        or (values >= len(texts)).any()
        or not begins[values].all()
    ):
        raise InputError(f"{path}: precompiled_charsmap leads out of its own tables")
