"""Builds a tokenizer from the metadata of a GGUF file, as llama.cpp reads it (src/llama-vocab.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

from ellm.checkpoint.chat_templates import gguf_templates
from ellm.checkpoint.gguf_metadata import Metadata
from ellm.checkpoint.gguf_vocabulary import Vocabulary
from ellm.system.errors import InputError
from ellm.text.end_of_turn import end_of_turn_ids
from ellm.text.ggml_pre_tokenizers import PRE_TOKENIZERS
from ellm.text.ggml_tokenizer import GGMLTokenizer, TokenType
from ellm.text.merges import BytePairs, SentencePieces
from ellm.text.pre_tokenizer import PreTokenizer
from ellm.text.tokenizer import Tokenizer

_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}  # where the file does not say
_WITHOUT_MERGES = "kimi-k2"  # the one pre-tokenizer whose files may lack them


def build_tokenizer(file: Metadata) -> Tokenizer:
    """The tokenizer of a GGUF file whose `tokenizer.ggml.model` is gpt2, gemma4 (both BPE) or llama (SentencePiece).

    Raises InputError if it is of another kind or broken.
    """
    model = file.field("tokenizer.ggml.model", str)
    if model not in ("gpt2", "gemma4", "llama"):
        raise InputError(f"{file.path}: tokenizer.ggml.model is {model!r}, ellm has gpt2, gemma4 and llama")
    vocabulary = Vocabulary(file)
    defaults = _SENTENCEPIECE_IDS if model == "llama" else {}
    roles = {name: vocabulary.id_of(name, defaults.get(name)) for name in (*_SPECIAL_TOKENS.values(), "eot", "eom")}
    pre, notes = (None, []) if model == "llama" else _pre_tokenizer(file, model)
    prefix = file.field("tokenizer.ggml.add_space_prefix", bool, pre is None)
    backend = GGMLTokenizer(
        vocabulary.tokens,
        vocabulary.types,
        vocabulary.ids,
        _byte_pairs(file, vocabulary, pre) if pre else _sentence_pieces(vocabulary, roles["unknown"]),
        byte_level=pre is not None and not pre.escape_spaces,
        space_prefix=prefix and pre is None,
        bos_id=roles["bos"],
        eos_id=roles["eos"] if _adds(file, "eos", False, roles["eos"]) else None,
        strip_right=_strip_right(file, vocabulary),
    )
    return Tokenizer(
        backend,
        source=str(file.path),
        special_tokens={
            role: vocabulary.tokens[number]
            for role, name in _SPECIAL_TOKENS.items()
            if (number := roles[name]) is not None
        },
        eos_ids=_eos_ids(vocabulary, [roles["eot"], roles["eom"]]),
        add_bos=_adds_bos(file, pre, roles["bos"]),
        chat_templates=gguf_templates(file),
        notes=notes,
    )


def _eos_ids(vocabulary: Vocabulary, named: Sequence[int | None]) -> set[int]:
    control = {number for number, kind in enumerate(vocabulary.types) if kind is TokenType.CONTROL}
    return end_of_turn_ids(vocabulary.ids, control) | {number for number in named if number is not None}


def _pre_tokenizer(file: Metadata, model: str) -> tuple[PreTokenizer, list[str]]:
    """The pre-tokenizer, and what is to be said of it."""
    name = "gemma4" if model == "gemma4" else file.field("tokenizer.ggml.pre", str, "")
    if not name:
        return PRE_TOKENIZERS["default"], [
            f"{file.path}: tokenizer.ggml.pre is missing: the text may be cut into other tokens than in training, "
            "and answers be worse for it; convert the model again"
        ]
    if name not in PRE_TOKENIZERS:
        raise InputError(
            f"{file.path}: tokenizer.ggml.pre is {name!r}, none of the {len(PRE_TOKENIZERS)} that ellm has"
        )
    return PRE_TOKENIZERS[name], []


def _byte_pairs(file: Metadata, vocabulary: Vocabulary, pre: PreTokenizer) -> BytePairs:
    key = "tokenizer.ggml.merges"
    bare = key not in file.metadata and file.metadata.get("tokenizer.ggml.pre") == _WITHOUT_MERGES
    strings = [] if bare else vocabulary.strings(key)
    merges: list[tuple[str, ...]] = [tuple(merge.split(" ")) for merge in strings]
    if not all(len(pair) == 2 and pair[0] for pair in merges):
        merges = [_pair(file, key, merge) for merge in strings]
    return BytePairs(vocabulary.ids, merges, pre)


def _pair(file: Metadata, key: str, merge: str) -> tuple[str, str]:
    """What a merge joins, the first of which may begin with a space."""
    cut = merge.find(" ", 1)
    if cut < 0 or " " in merge[cut + 1 :]:
        raise InputError(f"{file.path}: {key} has {merge[:40]!r}, must be pairs of tokens with one space between")
    return merge[:cut], merge[cut + 1 :]


def _sentence_pieces(vocabulary: Vocabulary, unknown_id: int | None) -> SentencePieces:
    return SentencePieces(vocabulary.ids, vocabulary.by_token("tokenizer.ggml.scores", float), unknown_id)


def _adds_bos(file: Metadata, pre: PreTokenizer | None, bos_id: int | None) -> bool:
    if pre is PRE_TOKENIZERS["gemma4"]:
        return True  # whatever the file says: there are files that say otherwise and are wrong
    return _adds(file, "bos", pre is None or pre.add_bos, bos_id)


def _adds(file: Metadata, role: str, default: bool, number: int | None) -> bool:
    key = f"tokenizer.ggml.add_{role}_token"
    if key not in file.metadata:
        return default
    adds = file.field(key, bool)
    if adds and number is None:
        raise InputError(f"{file.path}: {key} is true, but tokenizer.ggml.{role}_token_id is missing")
    return adds


def _strip_right(file: Metadata, vocabulary: Vocabulary) -> set[int]:
    """The special tokens that swallow the white space behind them: known by the model's name alone."""
    name = file.metadata.get("general.name")
    if not isinstance(name, str) or not any(part in name.lower() for part in ("phi-3", "phi3")):
        return set()
    kept = {vocabulary.ids.get(token) for token in ("<unk>", "<s>", "<|endoftext|>")}
    return {number for number, kind in enumerate(vocabulary.types) if kind != TokenType.NORMAL} - kept
