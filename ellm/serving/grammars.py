"""Grammars that answers keep to, by llguidance: made of structured outputs, off the path of any step."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

from ellm.serving.constraint import complaint
from ellm.serving.grammar_trial import Vocabulary, made
from ellm.serving.structured import StructuredOutputs
from ellm.system.errors import InputError, one_line
from ellm.system.limited_process import Ended, LimitedProcess
from ellm.text.token_ids import TokenIds
from ellm.text.tokenizer import Tokenizer
from ellm.text.vocabulary_bytes import vocabulary_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 64  # grammars that are kept for the next request
PROCESS = LimitedProcess("ellm.serving.grammar_trial", "tries grammars")


class Grammars:
    """Makes matchers of structured outputs, for a model of `vocab` tokens. May be used by any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab: int):
        self._tokenizer, self._vocab = tokenizer, vocab
        self._making, self._lock = threading.Lock(), threading.Lock()  # of what takes long, and of what is kept
        self._kept: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def matcher(self, wanted: StructuredOutputs) -> LLMatcher:
        """A matcher at the beginning. Raises InputError, in a line, for what llguidance does not take."""
        key = wanted.kind, wanted.text
        if (copy := self._copy(key)) is not None:
            return copy
        with self._making:
            copy = self._copy(key)  # made by another thread meanwhile
            return copy if copy is not None else self._keep(key, self._made(*key))

    def _copy(self, key: tuple[str, str]) -> LLMatcher | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key].deep_copy()

    def _keep(self, key: tuple[str, str], matcher: LLMatcher) -> LLMatcher:
        with self._lock:
            self._kept[key] = matcher
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return matcher.deep_copy()

    def _made(self, kind: str, text: str) -> LLMatcher:
        tokens = self._tokens
        try:
            self._try(kind, text)
            matcher = made(tokens, kind, text)
        except (Ended, ValueError, RecursionError) as error:
            raise InputError(f"structured_outputs: {kind}: {one_line(error)}") from error
        if matcher.is_error():
            raise InputError(f"structured_outputs: {kind}: {complaint(matcher)}")
        return matcher

    def _try(self, kind: str, text: str) -> None:
        """Have it made where it can do no harm. Raises Ended if it would."""
        name, vocabulary = self._said
        request = json.dumps({"name": name, "kind": kind, "text": text})
        while not PROCESS.ask(request)["known"]:
            PROCESS.ask(vocabulary)

    @cached_property
    def _tokens(self) -> LLTokenizer:
        return self._vocabulary.made()

    @cached_property
    def _said(self) -> tuple[str, str]:
        """A name for the vocabulary, and what tells the process of it."""
        record = self._vocabulary.record
        name = hashlib.sha256(json.dumps(record).encode()).hexdigest()
        return name, json.dumps({"name": name, "vocabulary": record})

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        tokenizer, vocab = self._tokenizer, self._vocab
        if isinstance(tokenizer, TokenIds):
            raise tokenizer.error("structured_outputs have no text to keep to")
        ends = sorted(one for one in tokenizer.eos_ids if one < vocab)
        if not ends:
            raise InputError(f"{tokenizer.source}: no token ends an answer, which structured_outputs need")
        backend = tokenizer.backend
        known, added = vocabulary_bytes(backend)[:vocab], backend.get_added_tokens_decoder()
        # Marks of calls are never text to a parser, so they must not be to a grammar.
        marks = tokenizer.call_marks
        return Vocabulary(
            known + [b""] * (vocab - len(known)),
            [one for one, token in added.items() if one < vocab and (token.special or token.content in marks)],
            [*added],
            ends,
            tokenizer.bos_id,
            lambda text: backend.encode(text, add_special_tokens=False).ids,
        )
