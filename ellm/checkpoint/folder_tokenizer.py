"""The tokenizer of a folder: its vocabulary, by the first of several files, and what tokenizer_config.json makes of it.

tokenizer.json says all there is to say of how a text is cut. transformers 5 builds some classes anew around its
vocabulary (LlamaTokenizer, Qwen2Tokenizer); here the file stays as it is, as in transformers 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from ellm.checkpoint import byte_level_bpe, rank_files, sentencepiece_file, tokenizer_json
from ellm.checkpoint.added_tokens import add_tokens, declared_tokens
from ellm.checkpoint.json_file import check_file
from ellm.system.errors import InputError, one_line
from ellm.text import splits
from ellm.text.package_errors import refusing

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json", "vocab.json")
FILES = (*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

_ADDING = ("add_bos_token", "add_eos_token")
_LLAMA = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_ANY = ("PreTrainedTokenizer", "TokenizersBackend")  # of any family
_LLAMA_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_END = "<|endoftext|>"
_ROLES = {  # of classes that read vocab.json
    "GPT2Tokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "Qwen2Tokenizer": {"eos_token": _END, "unk_token": _END, "pad_token": _END},
}
_QWEN = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")  # values of model_type
_KIMI = ("tokenization_kimi.", "tokenization_moonshot.")  # the repositories' own modules

Vocabulary = tuple[tokenizers.Tokenizer, dict[str, Any]]
"""A backend, and settings that hold unless tokenizer_config.json has them."""


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
    kind = _class(config, settings)
    has_json = (folder / "tokenizer.json").exists()
    found = _read_json(folder / "tokenizer.json", kind) if has_json else _read_other(folder, kind, config, settings)
    if found is None:
        return None
    backend, defaults = found
    said = defaults | {key: value for key, value in settings.items() if value is not None or key not in _ADDING}
    vocab_size = config.get("vocab_size")
    special = add_tokens(backend, folder, said, vocab_size if isinstance(vocab_size, int) else None)
    backend.encode_special_tokens = said.get("split_special_tokens") is True
    if kind == "GPT2Tokenizer" and isinstance(backend.pre_tokenizer, ByteLevel):
        backend.pre_tokenizer.add_prefix_space = said.get("add_prefix_space") is True
    if (kind in _LLAMA or not has_json) and not said.keys().isdisjoint(_ADDING):
        bos, eos = (said.get(key, default) for key, default in zip(_ADDING, (kind in _LLAMA, False), strict=True))
        _surround(backend, folder, special, bool(bos), bool(eos))
    with refusing(f"{folder}: broken tokenizer"):
        backend.decode(backend.encode("").ids)
    return backend, special


def _class(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The class of a tokenizer as transformers names it: what is said, or else that of the model's family."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    name = name.removesuffix("Fast") if isinstance(name, str) else ""
    if name and name not in _ANY:
        return name
    return "Qwen2Tokenizer" if config.get("model_type") in _QWEN else ""


def _read_json(path: Path, kind: str) -> Vocabulary:
    backend = tokenizer_json.read(path)
    backend.no_truncation()
    backend.no_padding()
    roles = _LLAMA_ROLES if kind in _LLAMA else {}
    return backend, {role: text for role, text in roles.items() if backend.token_to_id(text) is not None}


def _read_other(folder: Path, kind: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary of a folder without tokenizer.json."""
    pieces, ranks, tekken, vocab = (folder / name for name in _VOCABULARIES[1:])
    if kind in _ROLES and vocab.exists():
        return _read_merges(vocab, kind, settings)
    if pieces.exists():
        if not rank_files.is_tiktoken(pieces):
            return sentencepiece_file.read(pieces, legacy=settings.get("legacy") is not False)
        if config.get("model_type") == "llama":  # the authors' own files of Llama 3
            return rank_files.read_tiktoken(pieces, _names(folder, settings), splits.LLAMA3), {"add_bos_token": True}
        raise InputError(f"{pieces}: how a text is cut stands in the model's own code, ellm knows Llama 3's")
    if ranks.exists():
        if not _is_kimi(config, settings):
            raise InputError(f"{ranks}: how a text is cut stands in the model's own code, ellm knows Kimi's")
        return rank_files.read_tiktoken(ranks, _names(folder, settings), splits.KIMI), {}
    if tekken.exists():
        return rank_files.read_tekken(tekken)
    return _read_merges(vocab, kind, settings) if vocab.exists() else None


def _read_merges(vocab: Path, kind: str, settings: Mapping[str, Any]) -> Vocabulary:
    """vocab.json and merges.txt, which leave to the class how a text is cut."""
    merges = vocab.with_name("merges.txt")
    if kind not in _ROLES:
        raise InputError(f"{vocab}: tokenizer_class is {kind!r}, ellm knows how {' and '.join(_ROLES)} cut a text")
    if not merges.exists():
        raise InputError(f"{vocab}: is there without {merges.name}")
    check_file(vocab)
    check_file(merges)
    with refusing(f"{vocab.parent}: broken {vocab.name} or {merges.name}"):
        tokens, pairs = BPE.read_file(str(vocab), str(merges))
        model = BPE(vocab=tokens, merges=pairs)
    tokenizer_json.check_ids(vocab, tokens)
    space = settings.get("add_prefix_space") is True
    if kind == "GPT2Tokenizer":
        return byte_level_bpe.around(model, None, space), dict(_ROLES[kind])
    backend = byte_level_bpe.around(model, splits.QWEN2, space)
    backend.normalizer = normalizers.NFC()
    return backend, dict(_ROLES[kind])


def _names(folder: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """The tokens that tokenizer_config.json names by id."""
    declared = declared_tokens(folder / "tokenizer_config.json", settings.get("added_tokens_decoder") or {})
    return {number: token.content for number, token in declared.items()}


def _is_kimi(config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    modules = settings.get("auto_map")
    modules = modules.get("AutoTokenizer") if isinstance(modules, dict) else modules
    named = modules if isinstance(modules, list) else [modules]
    own = any(isinstance(name, str) and name.split("--")[-1].startswith(_KIMI) for name in named)
    return own or config.get("model_type") == "kimi_k2"


def _surround(backend: tokenizers.Tokenizer, folder: Path, special: dict[str, str], bos: bool, eos: bool) -> None:
    """Let the backend add bos_token before a text and eos_token behind it.

    Of the classes of Llama, whose models were released so, transformers 4 did this whatever tokenizer.json adds.
    """
    template, tokens = ["$A"], []
    for role, wanted in (("bos_token", bos), ("eos_token", eos)):
        if not wanted:
            continue
        text = special.get(role)
        if text is None:
            raise InputError(f"{folder}: add_{role} is true, but there is no {role}")
        template = [text, *template] if role == "bos_token" else [*template, text]
        tokens.append((text, backend.token_to_id(text)))
    try:
        backend.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    except ValueError as error:
        raise InputError(f"{folder}: {one_line(error)}") from error
