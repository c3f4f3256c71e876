"""Reads tokenizer.json and checks what would make the `tokenizers` package panic, which prints a trace on stderr."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ellm.checkpoint.json_file import read_json
from ellm.system.errors import InputError, one_line
from ellm.text.package_errors import refusing


def read(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a file. Raises InputError if it is broken."""
    content = read_json(path)
    model = content.get("model")
    if isinstance(model, dict):
        merges, vocab = model.get("merges"), model.get("vocab")
        if isinstance(merges, list) and isinstance(vocab, dict):
            check_merges(path, vocab, merges, model.get("continuing_subword_prefix"))
    for step in _steps(content.get("normalizer")):
        if step.get("type") == "Precompiled":
            _check_precompiled(path, step)
    with refusing(f"{path}: broken tokenizer"):
        backend = tokenizers.Tokenizer.from_file(str(path))
    if backend.post_processor:
        for step in _steps(json.loads(backend.post_processor.__getstate__())):
            if step["type"] == "TemplateProcessing":
                _check_template(path, step)
    return backend


def check_merges(path: Path, vocab: Mapping[str, int], merges: Sequence[Any], prefix: Any = None) -> None:
    """Raise InputError if a merge makes what is no token. What is malformed otherwise is left to the package."""
    prefix = prefix if isinstance(prefix, str) else ""
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            continue
        left, right = pair
        if not right.startswith(prefix):
            raise InputError(
                f"{path}: merge {number} has {one_line(repr(right), 60)} on its right, which must begin with "
                f"continuing_subword_prefix {one_line(repr(prefix), 60)}"
            )
        made = left + right[len(prefix) :]
        if made not in vocab:
            raise InputError(f"{path}: merge {number} makes {one_line(repr(made), 60)}, which is not in the vocabulary")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A normalizer or post-processor, as tokenizer.json has it, and those that it is a sequence of."""
    left = [part]
    while left:
        step = left.pop()
        if isinstance(step, dict):
            for parts in (step.get("processors"), step.get("normalizers")):
                left += parts if isinstance(parts, list) else []
            yield step


def _check_template(path: Path, step: Mapping[str, Any]) -> None:
    named = {part["SpecialToken"]["id"] for part in step["single"] + step["pair"] if "SpecialToken" in part}
    if missing := named - step["special_tokens"].keys():
        raise InputError(
            f"{path}: post_processor: the template has {one_line(repr(min(missing)))}, which special_tokens lacks"
        )


def _check_precompiled(path: Path, step: Mapping[str, Any]) -> None:
    try:
        charsmap = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: normalizer: precompiled_charsmap is not in base64: {one_line(error)}") from error
    check_charsmap(path, charsmap)


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
