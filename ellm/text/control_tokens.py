"""Control tokens that stand as text in what a user gave: they must stay text, whatever the chat template does with it.

A mark, a character that occurs nowhere else, is put into each such text; the template is rendered with the marks and
without them, and what it makes must be the same but for them. An encoder whose normalizer takes the marks away, after
control tokens were looked for, then gives every other text the ids that the tokenizer gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import tokenizers

from ellm.system.errors import InputError
from ellm.text.backend import Backend
from ellm.text.chat_template import ChatTemplate, Conversation, as_json
from ellm.text.ggml_tokenizer import GGMLTokenizer

_MARKS = (*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xF1000))  # noncharacters, then private use
_NAMES = ("role", "type")  # values that templates compare
_NAMED = re.compile(r"<[|\uff5c].+[|\uff5c]>", re.DOTALL)  # how control tokens look that are not said to be special


@dataclass(frozen=True)
class Marked:
    """A prompt text with `mark` within each text of a control token that must not become one."""

    text: str
    mark: str


class ControlTokens:
    """The control tokens of a vocabulary.

    They are the added tokens that are special, have a role (bos_token, ...), end an answer, or look like <|name|>.
    """

    def __init__(self, backend: Backend, roles: set[str], eos_ids: set[int]):
        self._backend = backend
        self._texts = sorted(
            token.content
            for number, token in backend.get_added_tokens_decoder().items()
            if token.special or token.content in roles or number in eos_ids or _NAMED.fullmatch(token.content)
        )
        self._texts = [text for text in self._texts if len(text) > 1]
        self.encoder = lru_cache(maxsize=1)(self._build_encoder)

    def mark(self, template: ChatTemplate, conversation: Conversation) -> Marked | None:
        """The rendered conversation with marks; None if there is nothing to mark.

        Raises InputError if the template refuses the conversation, or makes something else of it with the marks in it.
        """
        given = as_json(conversation)
        mark = next(mark for mark in map(chr, _MARKS) if mark not in given and mark not in template.text)
        guarded = self._guarded(conversation, mark, ())
        if mark not in as_json(guarded):
            return None
        # A template that takes an answer apart, as in content.split('</think>'), names what it looks for.
        named = [text for text in self._texts if text in template.text and text in given]
        spared = [self._guarded(conversation, mark, texts) for texts in (*([text] for text in named), named)]
        plain, *marked = template.render([conversation, guarded, *spared])
        if isinstance(plain, InputError):
            raise plain
        for text in marked:
            if isinstance(text, str) and text.replace(mark, "") == plain:
                return Marked(text, mark)
        raise InputError(
            "the chat_template looks for control tokens in the messages, which hold some as text: let them be control "
            "tokens (--special, parse_special), or take them out"
        )

    def _guarded(self, conversation: Conversation, mark: str, spared: Sequence[str]) -> Conversation:
        """All of the conversation marked, but for tokens that are spared in the assistant's messages."""
        every = _Marker(self._texts, mark)
        answers = _Marker([text for text in self._texts if text not in spared], mark)
        return replace(
            conversation,
            messages=[(answers if one["role"] == "assistant" else every)(one) for one in conversation.messages],
            tools=every(conversation.tools),
            variables=every(conversation.variables),
        )

    def _build_encoder(self, mark: str) -> Backend:
        """The backend, taking the marks away once it has looked for control tokens."""
        if isinstance(self._backend, GGMLTokenizer):
            return self._backend.without(mark)
        assert isinstance(self._backend, tokenizers.Tokenizer)
        parts = json.loads(self._backend.to_str())
        own = parts["normalizer"]
        take_away = {"type": "Replace", "pattern": {"String": mark}, "content": ""}
        parts["normalizer"] = {"type": "Sequence", "normalizers": [take_away, *([own] if own else [])]}
        for token in parts["added_tokens"]:
            token["normalized"] = token["normalized"] and token["content"] not in self._texts
        return tokenizers.Tokenizer.from_str(json.dumps(parts))


class _Marker:
    """Puts a mark behind the first character of each control token, and behind what may be the first part of one."""

    def __init__(self, texts: Sequence[str], mark: str):
        self._mark = mark
        self._whole = re.compile(f"(?=({'|'.join(map(re.escape, texts))}))(.)", re.DOTALL) if texts else None
        self._begun = {text[:end] for text in texts for end in range(1, len(text))}
        self._longest = max(map(len, self._begun), default=0)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._ended(self._within(value), value)
        if isinstance(value, Mapping):
            return {
                self._within(key): self._within(item) if key in _NAMES and isinstance(item, str) else self(item)
                for key, item in value.items()
            }
        return [*map(self, value)] if isinstance(value, Sequence) else value

    def _within(self, text: str) -> str:
        return text if self._whole is None else self._whole.sub(lambda match: match[2] + self._mark, text)

    def _ended(self, found: str, text: str) -> str:
        text = text.rstrip()
        if any(text[-length:] in self._begun for length in range(1, min(len(text), self._longest) + 1)):
            end = len(found.rstrip())
            return found[:end] + self._mark + found[end:]
        return found
