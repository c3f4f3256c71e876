"""Vocabulary-only GGUF files of every kind, made of the first tokens of SmolLM2's vocabulary."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import gguf
from gguf import TokenType

from ellm.checkpoint import aliases
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.text.ggml_pre_tokenizers import PRE_TOKENIZERS
from ellm.text.merges import LETTER_OF_BYTE, SPACE, byte_token

_TOKENS = 6000  # what is taken of SmolLM2
_EXTRA = {  # special tokens that overlap, swallow each other's ends, or hold spaces
    "<think>": TokenType.USER_DEFINED,
    "    ": TokenType.USER_DEFINED,
    "  ": TokenType.USER_DEFINED,
    "<|a|><|": TokenType.CONTROL,
    "<|a|>": TokenType.CONTROL,
    "the <b": TokenType.USER_DEFINED,
    "|><": TokenType.USER_DEFINED,
    "<|reserved|>": TokenType.UNUSED,
}
SPECIAL = [*_EXTRA, "<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<unk>"]
_BYTE = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}
PRE_NAMES = list({(pre.rule, pre.whole_words): name for name, pre in PRE_TOKENIZERS.items()}.values())
VOCABULARIES = [
    *(f"gpt2 {name}" for name in PRE_NAMES if PRE_TOKENIZERS[name].byte_level),
    *("gpt2 sarvam-moe", "gemma4", "llama", "llama ties", "llama no-prefix", "llama phi-3"),
]


def write_vocabulary(path: Path, name: str) -> Path:
    """One of `VOCABULARIES`."""
    model, _, form = name.partition(" ")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model(model)
    if model == "llama":
        _add_sentencepiece(writer, form)
    elif model == "gpt2" and PRE_TOKENIZERS[form].byte_level:
        writer.add_tokenizer_pre(form)
        _add_byte_level(writer)
    else:
        writer.add_tokenizer_pre(form or model)
        _add_spelled(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@cache
def _source() -> tuple[list[str], list[int], list[tuple[str, str]]]:
    """Tokens, their kinds, and merges that make one of them."""
    metadata = GGUFFile(aliases.path_of("smollm2")).metadata
    tokens = metadata["tokenizer.ggml.tokens"][:_TOKENS]
    there = set(tokens)
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    return tokens, metadata["tokenizer.ggml.token_type"][:_TOKENS], [pair for pair in merges if "".join(pair) in there]


def _add_tokens(writer, tokens: list[str], kinds: list[int], bos: str, eos: str) -> None:
    tokens, kinds = [*tokens, *_EXTRA], [*kinds, *_EXTRA.values()]
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(tokens.index(bos))
    writer.add_eos_token_id(tokens.index(eos))


def _add_byte_level(writer) -> None:
    tokens, kinds, merges = _source()
    _add_tokens(writer, tokens, kinds, "<|im_start|>", "<|im_end|>")
    writer.add_token_merges([*(" ".join(pair) for pair in merges), "s t", "zz y"])


def _spelled(tokens: list[str]) -> dict[str, str]:
    """Byte-level tokens as text with U+2581 for spaces, where they are whole characters."""
    spelled = {}
    for token in tokens:
        try:
            spelled[token] = bytes(_BYTE[letter] for letter in token).decode().replace(" ", SPACE)
        except (KeyError, UnicodeDecodeError):
            continue
    return spelled


def _add_spelled(writer) -> None:
    tokens, _, merges = _source()
    words = _spelled(tokens)
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [*control, *map(byte_token, range(256)), *(word for word in words.values() if word not in control)]
    kinds = [TokenType.CONTROL] * 3 + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * (len(texts) - 259)
    _add_tokens(writer, texts, kinds, "<|im_start|>", "<|im_end|>")
    pairs = [(words[left], words[right]) for left, right in merges if left in words and right in words]
    writer.add_token_merges([" ".join(pair) for pair in pairs])


def _add_sentencepiece(writer, form: str) -> None:
    words = [word for word in _spelled(_source()[0]).values() if not word.startswith("<|")]
    texts = ["<unk>", "<s>", "</s>", *map(byte_token, range(256)), *words, "<|endoftext|>"]
    step = 40 if form == "ties" else 1
    scores = [0.0] * 259 + [-float(rank // step) for rank in range(len(words))] + [0.0]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    _add_tokens(writer, texts, kinds + [TokenType.NORMAL] * len(words) + [TokenType.CONTROL], "<s>", "</s>")
    writer.add_unk_token_id(0)
    writer.add_token_scores(scores + [-1000.0] * len(_EXTRA))
    writer.add_add_space_prefix(form != "no-prefix")
    writer.add_add_eos_token(form == "ties")
    writer.add_name(form)
