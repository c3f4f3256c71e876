"""The tokenizer of a folder: its vocabulary, by the first of several files, and what tokenizer_config.json makes of it.

tokenizer.json says all there is to say of how a text is cut. transformers 5 builds some classes anew around its
vocabulary (LlamaTokenizer, Qwen2Tokenizer); here the file stays as it is, as in transformers 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from ellm.checkpoint.added_tokens import add_tokens
from ellm.checkpoint.json_file import check_file
from ellm.system.errors import InputError, one_line

_LLAMA = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # of their classes in transformers


def build(
    folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str]] | None:
    """A backend and the texts of the tokens that have roles; None if the folder has no tokenizer.

    Args:
        folder: where the files are.
        config: config.json.
        settings: tokenizer_config.json.

    Raises:
        InputError: a file is broken, or of a kind that ellm does not read.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    backend = _read(path)
    kind = settings.get("tokenizer_class")
    kind = kind.removesuffix("Fast") if isinstance(kind, str) else ""
    if kind in _LLAMA:
        settings = {
            **{role: text for role, text in _DEFAULTS.items() if backend.token_to_id(text) is not None},
            **settings,
        }
    vocab_size = config.get("vocab_size")
    special = add_tokens(backend, folder, settings, vocab_size if isinstance(vocab_size, int) else None)
    backend.encode_special_tokens = settings.get("split_special_tokens") is True
    if kind == "GPT2Tokenizer" and isinstance(backend.pre_tokenizer, ByteLevel):
        backend.pre_tokenizer.add_prefix_space = settings.get("add_prefix_space") is True
    if kind in _LLAMA and not settings.keys().isdisjoint(("add_bos_token", "add_eos_token")):
        _surround(backend, folder, settings, special)
    return backend, special


def _read(path: Path) -> tokenizers.Tokenizer:
    check_file(path)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more specific
        raise InputError(f"{path}: broken tokenizer: {one_line(error)}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _surround(
    backend: tokenizers.Tokenizer, folder: Path, settings: Mapping[str, Any], special: dict[str, str]
) -> None:
    """Let the backend add what `add_bos_token` and `add_eos_token` say.

    Of the classes of Llama, whose models were released so, transformers 4 did this whatever tokenizer.json adds.
    """
    template, tokens = ["$A"], []
    for role, default in (("bos_token", True), ("eos_token", False)):
        wanted = settings.get(f"add_{role}")
        if not (default if wanted is None else wanted):
            continue
        text = special.get(role)
        if text is None:
            raise InputError(f"{folder}/tokenizer_config.json: add_{role} is {wanted}, but there is no {role}")
        template = [text, *template] if role == "bos_token" else [*template, text]
        tokens.append((text, backend.token_to_id(text)))
    try:
        backend.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    except ValueError as error:
        raise InputError(f"{folder}: {one_line(error)}") from error
