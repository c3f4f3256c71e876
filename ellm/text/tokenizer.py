"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from ellm.system.errors import InputError
from ellm.text.chat_template import ChatTemplate

_REPLACEMENT = "\ufffd"


class Tokenizer:
    """A tokenizer of the `tokenizers` package with the conventions of its model.

    Attributes:
        source: the checkpoint, for messages.
        bos_id: id of the token that begins a sequence, or None.
        eos_ids: ids that end an answer.
        vocab_size: number of tokens, added ones included.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        source: str,
        special_tokens: dict[str, str],
        eos_ids: Iterable[int] = (),
        add_bos: bool | None = None,
        chat_templates: dict[str, str] | None = None,
    ):
        """Wrap a backend.

        Args:
            backend: does the work.
            source: the checkpoint, for messages.
            special_tokens: roles (`bos_token`, `eos_token`, ...) and their tokens.
            eos_ids: ids that end an answer beside `eos_token`.
            add_bos: whether a text begins with `bos_token`; None leaves that to the backend's own post-processor.
            chat_templates: by name; `default` serves, and `tool_use`, if there is one, when tools are given.

        Raises:
            InputError: bos_token or eos_token is not in the vocabulary.
        """
        self.backend = backend
        self.source = source
        self._add_bos = add_bos
        self._templates = chat_templates or {}
        self._special_tokens = special_tokens
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._special_id("bos_token")
        eos_id = self._special_id("eos_token")
        self.eos_ids: set[int] = {*eos_ids} | ({eos_id} if eos_id is not None else set())

    def _special_id(self, role: str) -> int | None:
        token = self._special_tokens.get(role)
        if token is None:
            return None
        number = self.backend.token_to_id(token)
        if number is None:
            raise InputError(f"{self.source}: {role} is {token!r}, which is not in the vocabulary")
        return number

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids of a text; `add_special` adds what the model expects around a text, such as `bos_token`.

        Raises InputError if the text holds half a surrogate pair.
        """
        try:
            ids = self.backend.encode(text, add_special_tokens=add_special).ids
        except TypeError as error:  # what the package raises for lone surrogates
            raise InputError("the text is not valid Unicode") from error
        if add_special and self._add_bos is not None and self.bos_id is not None:
            if self._add_bos and ids[:1] != [self.bos_id]:
                ids.insert(0, self.bos_id)
            elif not self._add_bos and ids[:1] == [self.bos_id] and self._backend_adds_bos:
                del ids[0]
        return ids

    @cached_property
    def _backend_adds_bos(self) -> bool:
        return self.backend.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary become nothing."""
        taken = [number for number in ids if 0 <= number < 1 << 32]  # what the package takes
        return self.backend.decode(taken, skip_special_tokens=skip_special)

    def stream(self, skip_special: bool = True) -> TokenStream:
        """An incremental `decode`."""
        return TokenStream(self, skip_special)

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` and `chat` can work."""
        return "default" in self._templates

    @cached_property
    def _compiled_templates(self) -> dict[str, ChatTemplate]:
        return {name: ChatTemplate(text, self._special_tokens, self.source) for name, text in self._templates.items()}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The prompt text of a conversation: see `ChatTemplate.render`. Raises InputError without a template too."""
        if not self.has_chat_template:
            raise InputError(f"{self.source}: the model has no chat_template; give it plain text instead of messages")
        templates = self._compiled_templates
        name = "tool_use" if tools and "tool_use" in templates else "default"
        return templates[name].render(messages, add_generation_prompt, tools)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
    ) -> list[int]:
        """Token ids of `render`; the template itself writes the special tokens."""
        return self.encode(self.render(messages, add_generation_prompt, tools), add_special=False)


class TokenStream:
    """Turns ids into text one by one; what all calls return, put together, is the text of all ids.

    Text is held back while it may be the first bytes of an unfinished UTF-8 character. Only the ids since the last
    piece are decoded again, with that piece before them, since decoders treat the first id of a text specially.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids: list[int] = []  # the ids of the last piece of text, then those that are held back
        self._given = 0  # ids of the last piece
        self._given_text = ""

    def push(self, token_id: int) -> str:
        """The text that this id completes, or an empty string."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids, self._skip_special)
        if text.endswith(_REPLACEMENT) or len(text) <= len(self._given_text):
            return ""
        piece = text[len(self._given_text) :]
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        self._given_text = self._tokenizer.decode(self._ids, self._skip_special)
        return piece

    def finish(self) -> str:
        """The text still held back; an unfinished character becomes U+FFFD. The stream is then empty."""
        text = self._tokenizer.decode(self._ids, self._skip_special)[len(self._given_text) :]
        self._ids, self._given, self._given_text = [], 0, ""
        return text
