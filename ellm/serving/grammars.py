"""Grammars that answers keep to, by llguidance: made of structured outputs, off the path of any step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ellm.serving.constraint import complaint
from ellm.serving.structured import StructuredOutputs
from ellm.system.errors import InputError, one_line
from ellm.text.token_ids import TokenIds
from ellm.text.tokenizer import Tokenizer
from ellm.text.vocabulary_bytes import vocabulary_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 64  # grammars that are kept for the next request
MOST_FORCED_BYTES = 1024  # of a text without a choice that are made tokens at a time
LONGEST_GREEDY = 16  # bytes of a token that is found without the tokenizer
LEXER_STATES = 50_000  # most that an expression may come to: some 2 KB each
LEXER_FUEL = (
    100_000  # a tenth of llguidance's: 64 KiB of choices take less, and a million repeats of a letter not seconds
)


class Grammars:
    """Makes matchers of structured outputs, for a model of `vocab` tokens. May be used by any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab: int):
        self._tokenizer, self._vocab = tokenizer, vocab
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None  # takes seconds to make for many tokens, so only where it is needed
        self._kept: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def matcher(self, wanted: StructuredOutputs) -> LLMatcher:
        """A matcher at the beginning. Raises InputError, in a line, for what llguidance does not take."""
        key = wanted.kind, wanted.text
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._made(*key)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key].deep_copy()

    def _made(self, kind: str, text: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits, grammar_from

        if self._tokens is None:
            self._tokens = _tokens(self._tokenizer, self._vocab)
        limits = LLParserLimits(max_lexer_states=LEXER_STATES, initial_lexer_fuel=LEXER_FUEL, verbose_errors=False)
        try:
            grammar = grammar_from(kind, text)  # type: ignore[arg-type]
            matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        except (ValueError, RecursionError) as error:
            raise InputError(f"structured_outputs: {kind}: {one_line(error)}") from error
        if matcher.is_error():
            raise InputError(f"structured_outputs: {kind}: {complaint(matcher)}")
        return matcher


def _tokens(tokenizer: Tokenizer, vocab: int) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    if isinstance(tokenizer, TokenIds):
        raise tokenizer.error("structured_outputs have no text to keep to")
    ends = sorted(one for one in tokenizer.eos_ids if one < vocab)
    if not ends:
        raise InputError(f"{tokenizer.source}: no token ends an answer, which structured_outputs need")
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, vocab, ends[0])), eos_token=ends)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, end: int):
        backend = tokenizer.backend
        known = vocabulary_bytes(backend)[:vocab]
        added = backend.get_added_tokens_decoder()
        self.eos_token_id, self.bos_token_id = end, tokenizer.bos_id
        self.tokens = known + [b""] * (vocab - len(known))
        # Marks of calls are never text to a parser, so they must not be to a grammar.
        marks = tokenizer.call_marks
        self.special_token_ids = [
            number for number, token in added.items() if number < vocab and (token.special or token.content in marks)
        ]
        self._encode = backend.encode
        self._ids = {token: number for number, token in reversed([*enumerate(self.tokens)]) if number not in added}
        self._special = frozenset(self.special_token_ids)
        self._longest = min(LONGEST_GREEDY, max(map(len, self._ids), default=0))

    def __call__(self, text: bytes) -> list[int]:
        """Tokens whose bytes are those of a text, or of its beginning: the model's own, if these are text."""
        text = text[:MOST_FORCED_BYTES]
        ids = self._encode(text.decode(errors="replace"), add_special_tokens=False).ids
        usual = all(number < len(self.tokens) and number not in self._special for number in ids)
        return ids if usual and b"".join(self.tokens[one] for one in ids) == text else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token that fits, one after the other; up to bytes that no token has."""
        found, at = [], 0
        while at < len(text):
            length = next((n for n in range(self._longest, 0, -1) if text[at : at + n] in self._ids), 0)
            if not length:
                break
            found.append(self._ids[text[at : at + length]])
            at += length
        return found
