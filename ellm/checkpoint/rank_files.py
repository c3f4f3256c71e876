"""Tokenizers whose tokens are ordered by rank: tiktoken's lines of text, and Mistral's tekken.json."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ellm.checkpoint.byte_level_bpe import of_ranks
from ellm.checkpoint.json_file import check_file, read_json
from ellm.system.errors import InputError, one_line
from ellm.text.package_errors import refusing

_MOST_SPECIAL = 1 << 14
_LONGEST = 1 << 10  # bytes of a token
_TEKKEN_SPECIAL = (  # of files that do not name them: mistral_common, tokens/tokenizers/tekken.py
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def is_tiktoken(path: Path) -> bool:
    """Whether a file begins as tiktoken's do: a token in base64, its rank. Raises InputError as `check_file` does."""
    check_file(path)
    with path.open("rb") as file:
        parts = file.readline(2 * _LONGEST).split()
    try:
        return len(parts) == 2 and int(parts[1]) == 0 and bool(base64.b64decode(parts[0], validate=True))
    except ValueError:
        return False


def read_tiktoken(path: Path, names: Mapping[int, str], split: str) -> Tokenizer:
    """The tokenizer of a file of ranks, which knows neither how texts are cut nor special tokens.

    `names` are tokens by ids, of which those behind the file's own are special; an id between them that has no name
    is reserved. Raises InputError if the file is broken or `names` has no special token.
    """
    check_file(path)
    tokens: list[bytes] = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or parts[1] != b"%d" % len(tokens):
            raise InputError(f"{path}: line {number + 1} must be a token in base64 and the rank {len(tokens)}")
        tokens.append(_decoded(path, parts[0], f"line {number + 1}"))
    end = max(names, default=-1) + 1
    if not len(tokens) < end <= len(tokens) + _MOST_SPECIAL:
        last = f"ends at {end - 1}" if names else "is missing"
        raise InputError(
            f"{path}: has {len(tokens)} tokens, its special ones are those behind these in added_tokens_decoder of "
            f"tokenizer_config.json, which {last}"
        )
    special = [names.get(number, f"<|reserved_token_{number}|>") for number in range(len(tokens), end)]
    return _built(path, tokens, special, split, special_first=False)


def read_tekken(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a tekken.json, and what tokenizer_config.json says unless it says otherwise.

    Raises InputError if the file is broken.
    """
    content = read_json(path)
    try:
        config = content["config"]
        split = config["pattern"]
        by_rank = {entry["rank"]: entry["token_str"] for entry in content.get("special_tokens") or ()}
        by_rank = by_rank or dict(enumerate(_TEKKEN_SPECIAL))
        count = config.get("default_num_special_tokens") or len(by_rank)
        size = config.get("default_vocab_size") or len(content["vocab"]) + count
        coded = [entry["token_bytes"] for entry in content["vocab"][: max(size - count, 0)]]
        texts = [split, *by_rank.values(), *coded]
        if not all(isinstance(text, str) for text in texts) or not 0 <= count <= _MOST_SPECIAL:
            raise TypeError("a value is of the wrong type or size")
        if any(not isinstance(rank, int) or not 0 <= rank < count for rank in by_rank):
            raise ValueError(f"a special token has no rank below {count}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no tokenizer of Mistral: {one_line(repr(error))}") from error
    tokens = [_decoded(path, text, f"token {rank}") for rank, text in enumerate(coded)]
    special = [by_rank.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    found = {role: text for role, text in roles.items() if text in special}
    backend = _built(path, tokens, special, split, special_first=True)
    return backend, {**found, "add_bos_token": "bos_token" in found}


def _decoded(path: Path, text: str | bytes, place: str) -> bytes:
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{path}: {place}: {one_line(error)}") from error
    if not 0 < len(token) <= _LONGEST:
        raise InputError(f"{path}: {place}: a token has {len(token)} bytes, 1 to {_LONGEST} are plausible")
    return token


def _built(path: Path, tokens: list[bytes], special: list[str], split: str, *, special_first: bool) -> Tokenizer:
    try:
        with refusing("broken tokenizer"):
            return of_ranks(tokens, special, split, special_first)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
