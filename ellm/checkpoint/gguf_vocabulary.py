"""The tokens of a GGUF file: texts, kinds, and ids by text and by role."""

from __future__ import annotations

from typing import Any

from ellm.checkpoint.gguf_metadata import Metadata
from ellm.system.errors import InputError
from ellm.text.end_of_turn import ENDS
from ellm.text.ggml_tokenizer import TokenType

_CONTROL_TEXTS = ENDS | {  # control tokens whatever the file says of them (llama.cpp, src/llama-vocab.cpp)
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>", "\u2581<PRE>"),
    *("<|code_prefix|>", "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>"),
    *("<\uff5cfim\u2581hole\uff5c>", "<SUF>", "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>"),
    *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>", "\u2581<MID>"),
    *("<|code_middle|>", "<|middle|>"),
}
_GEMMA4_TEXT = "<|tool_response>"
_TYPES = {int(kind): kind for kind in TokenType}


class Vocabulary:
    """What `tokenizer.ggml.tokens` and the fields about them hold.

    Attributes:
        tokens: texts by id.
        types: by id.
        ids: id by text. Where tokens have a text in common, it is the id of the one that is not unused. As in C, a text
            ends at its first NUL; [EMPTY_7] stands for one without characters.

    Raises InputError if a field is malformed, or one text stands for two tokens that are in use.
    """

    def __init__(self, file: Metadata):
        self._file = file
        self.tokens = self.strings("tokenizer.ggml.tokens")
        kinds = self.by_token("tokenizer.ggml.token_type", int, [TokenType.NORMAL] * len(self.tokens))
        forced = dict.fromkeys(_CONTROL_TEXTS, TokenType.CONTROL)
        if _GEMMA4_TEXT in self.tokens:
            forced["</s>"] = TokenType.NORMAL  # a tag of HTML
        self.types = [_TYPES.get(kind, TokenType.UNDEFINED) for kind in kinds]
        for number, token in enumerate(self.tokens):
            if token in forced:
                self.types[number] = forced[token]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens) or "" in self.ids or "\0" in "".join(self.tokens):
            self.ids = self._sorted_out()

    def _sorted_out(self) -> dict[str, int]:
        """`ids` of a vocabulary in which some texts are empty, end early or stand for several tokens."""
        ids: dict[str, int] = {}
        for number, text in enumerate(self.tokens):
            token = text.partition("\0")[0] or f"[EMPTY_{number}]"
            other = ids.setdefault(token, number)
            if other == number or self._unused(number):
                continue
            if not self._unused(other):
                raise InputError(
                    f"{self._file.path}: tokenizer.ggml.tokens has {token!r} twice, as {other} and {number}, both in "
                    f"use"
                )
            ids[token] = number
        return ids

    def strings(self, key: str) -> list[str]:
        """An array of strings. Raises InputError if the field is anything else, or empty."""
        values = self._file.field(key, list)
        if {*map(type, values)} != {str}:
            raise InputError(f"{self._file.path}: {key} must be an array of strings")
        return values

    def by_token(self, key: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        """An array with a number for each token. Raises InputError if it has fewer, or something else."""
        values = self._file.field(key, list, default)
        if len(values) < len(self.tokens) or not all(issubclass(one, (kind, int)) for one in {*map(type, values)}):
            raise InputError(
                f"{self._file.path}: {key} has {len(values)} values, must have {len(self.tokens)} of {kind.__name__}"
            )
        return values[: len(self.tokens)]

    def _unused(self, number: int) -> bool:
        kind = self.types[number]
        return kind == TokenType.UNUSED or (kind == TokenType.CONTROL and "unused" in self.tokens[number])

    def id_of(self, role: str, default: int | None = None) -> int | None:
        """The id of a role such as `bos`; `default` if the file does not say. Raises InputError if it is no token's."""
        key = f"tokenizer.ggml.{role}_token_id"
        if key not in self._file.metadata:
            return default if default is None or default < len(self.tokens) else None
        number = self._file.field(key, int)
        if not 0 <= number < len(self.tokens):
            raise InputError(f"{self._file.path}: {key} is {number}, the vocabulary has {len(self.tokens)} tokens")
        return number
