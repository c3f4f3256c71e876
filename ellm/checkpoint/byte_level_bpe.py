"""Byte-level BPE tokenizers from less than a tokenizer.json: from a model, or from tokens by rank."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from ellm.system.errors import InputError

_VISIBLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_CHARACTER = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}


def around(model: BPE, split: str | None, space: bool = False) -> Tokenizer:
    """A tokenizer whose tokens are written in GPT-2's characters for bytes.

    `split` is how a text is cut, None: as GPT-2 does; with `space`, a text begins with one. Raises an error of the
    package if `split` is no regular expression.
    """
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    if split is not None:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False),
            ]
        )
    backend.decoder = decoders.ByteLevel()
    return backend


def of_ranks(tokens: Sequence[bytes], special: Sequence[str], split: str, special_first: bool) -> Tokenizer:
    """A tokenizer of tiktoken's kind: of all neighbours, those that make the token of the lowest rank are merged first.

    Args:
        tokens: by rank.
        special: tokens that texts are searched for.
        split: how a text is cut.
        special_first: the special tokens have the ids before the others, not behind them.

    Raises:
        InputError: a token occurs twice.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens):
        raise InputError(f"two of its {len(tokens)} tokens are the same")
    first = len(special) if special_first else 0
    names = ["".join(_CHARACTER[byte] for byte in token) for token in tokens]
    vocab = {name: first + rank for rank, name in enumerate(names)}
    vocab |= {name: (0 if special_first else len(tokens)) + number for number, name in enumerate(special)}
    if len(vocab) != len(tokens) + len(special):
        raise InputError(f"two of its {len(special)} special tokens are the same, or one is a token of text too")
    merges = []
    for token in tokens:
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(ranks[left], ranks[right]) for left, right in cuts if left in ranks and right in ranks]
        merges += [(names[left], names[right]) for left, right in sorted(pairs)]
    backend = around(BPE(vocab=vocab, merges=merges, ignore_merges=True), split)
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return backend
