"""Builds a tokenizer from the metadata of a GGUF file.

GGUF holds the vocabulary but only the name of the pre-tokenizer, so the rules behind the names are here. They are those
of the models' own tokenizer.json files, and of llama.cpp (src/llama-vocab.cpp).
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

import ellm.text.tokenizer
from ellm.checkpoint.chat_templates import gguf_templates
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.system.errors import InputError, one_line
from ellm.text.end_of_turn import end_of_turn_ids

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # token_type
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {  # tokenizer.ggml.pre: the regex that cuts a text; None: that of GPT-2
    "default": None,
    "gpt-2": None,
    "smollm": None,  # after every digit was cut out
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": _QWEN2_SPLIT,
    "tekken": _TEKKEN_SPLIT,
}
_BEGINS_WITH_BOS = {"llama-bpe", "llama3", "llama-v3", "tekken"}  # unless the file says otherwise
_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def build_tokenizer(file: GGUFFile) -> ellm.text.tokenizer.Tokenizer:
    """The tokenizer of a GGUF file whose `tokenizer.ggml.model` is gpt2 (byte-level BPE) or llama (sentencepiece BPE).

    Raises InputError if it is of another kind or broken.
    """
    kind = file.field("tokenizer.ggml.model", str)
    pre = file.field("tokenizer.ggml.pre", str, "default")
    tokens = _strings(file, "tokenizer.ggml.tokens")
    if kind == "gpt2":
        build, add_bos = _byte_level, pre in _BEGINS_WITH_BOS
    elif kind == "llama":
        build, add_bos = _sentencepiece, True
    else:
        raise InputError(f"{file.path}: tokenizer.ggml.model is {kind!r}, ellm has gpt2 and llama")
    try:
        backend = build(file, tokens, pre)
        _add_tokens(file, backend, tokens)
    except InputError:
        raise
    except Exception as error:  # the package raises nothing more specific
        raise InputError(f"{file.path}: broken tokenizer: {one_line(error)}") from error
    return ellm.text.tokenizer.Tokenizer(
        backend,
        source=str(file.path),
        special_tokens=_special_tokens(file, tokens),
        eos_ids=_eos_ids(file, tokens),
        add_bos=file.field("tokenizer.ggml.add_bos_token", bool, add_bos),
        chat_templates=gguf_templates(file),
    )


def _eos_ids(file: GGUFFile, tokens: list[str]) -> set[int]:
    kinds = file.field("tokenizer.ggml.token_type", list, [])
    control = {number for number, kind in enumerate(kinds) if kind == _CONTROL}
    ends = end_of_turn_ids({token: number for number, token in enumerate(tokens)}, control)
    return ends | {number for name in ("eot", "eom") if (number := _token_id(file, name, tokens)) is not None}


def _strings(file: GGUFFile, key: str) -> list[str]:
    values = file.field(key, list)
    if not values or not all(type(value) is str for value in values):
        raise InputError(f"{file.path}: {key} must be an array of strings")
    return values


def _byte_level(file: GGUFFile, tokens: list[str], pre: str) -> Tokenizer:
    if pre not in _SPLITS:
        raise InputError(f"{file.path}: tokenizer.ggml.pre is {pre!r}, ellm has {', '.join(_SPLITS)}")
    merges = [tuple(merge.split(" ")) for merge in _strings(file, "tokenizer.ggml.merges")]
    if not all(len(pair) == 2 for pair in merges):
        raise InputError(f"{file.path}: tokenizer.ggml.merges must be pairs of tokens with one space between")
    backend = Tokenizer(BPE(vocab=_vocabulary(file, tokens), merges=merges))  # type: ignore[arg-type]
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if _SPLITS[pre] is _QWEN2_SPLIT:
        backend.normalizer = normalizers.NFC()
    return backend


def _pre_tokenizer(pre: str) -> PreTokenizer:
    split = _SPLITS[pre]
    if split is not None:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def _sentencepiece(file: GGUFFile, tokens: list[str], pre: str) -> Tokenizer:
    """Sentencepiece BPE: the merge of two pieces comes earlier the higher the score of what they make."""
    scores = file.field("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens) or not all(isinstance(score, float) for score in scores):
        raise InputError(f"{file.path}: tokenizer.ggml.scores has {len(scores)} values, must have {len(tokens)} reals")
    vocab = _vocabulary(file, tokens)
    merges = []
    for token, number in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                order = (-scores[number], -len(left), -len(right), number, vocab[left], vocab[right])
                merges.append((*order, left, right))
    merges.sort()
    unknown = _token_id(file, "unknown", tokens)
    model = BPE(
        vocab=vocab,
        merges=[(merge[-2], merge[-1]) for merge in merges],
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    prefix = file.field("tokenizer.ggml.add_space_prefix", bool, True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never", split=False)
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _vocabulary(file: GGUFFile, tokens: list[str]) -> dict[str, int]:
    vocab = {token: number for number, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        twice = next(token for number, token in enumerate(tokens) if vocab[token] != number)
        raise InputError(f"{file.path}: tokenizer.ggml.tokens has {twice!r} twice")
    return vocab


def _add_tokens(file: GGUFFile, backend: Tokenizer, tokens: list[str]) -> None:
    """Control and user-defined tokens are matched whole in a text; the first are left out of decoded text."""
    kinds = file.field("tokenizer.ggml.token_type", list, [])
    if kinds and len(kinds) != len(tokens):
        raise InputError(f"{file.path}: tokenizer.ggml.token_type has {len(kinds)} values, must have {len(tokens)}")
    pairs = list(zip(tokens, kinds, strict=False))
    special = (_UNKNOWN, _CONTROL)
    control = [AddedToken(token, normalized=False, special=True) for token, kind in pairs if kind in special]
    plain = [AddedToken(token, normalized=False, special=False) for token, kind in pairs if kind == _USER_DEFINED]
    backend.add_special_tokens(control)
    backend.add_tokens(plain)


def _special_tokens(file: GGUFFile, tokens: list[str]) -> dict[str, str]:
    numbers = {role: _token_id(file, name, tokens) for role, name in _SPECIAL_TOKENS.items()}
    return {role: tokens[number] for role, number in numbers.items() if number is not None}


def _token_id(file: GGUFFile, name: str, tokens: list[str]) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in file.metadata:
        return None
    number = file.field(key, int)
    if not 0 <= number < len(tokens):
        raise InputError(f"{file.path}: {key} is {number}, the vocabulary has {len(tokens)} tokens")
    return number
