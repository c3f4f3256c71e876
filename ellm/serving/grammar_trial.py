"""Making a matcher of a grammar by llguidance; and the process that tries it where it can do no harm.

A grammar is a client's. A few KiB of one can take minutes, all memory, or the whole stack, which ends the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ellm.system.limited_process import serve

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_FORCED_BYTES = 1024  # of a text without a choice that are made tokens at a time
LONGEST_GREEDY = 16  # bytes of a token that is found without the tokenizer
LEXER_STATES = 50_000  # most that an expression may come to: some 2 KB each
LEXER_FUEL = (
    100_000  # a tenth of llguidance's: 64 KiB of choices take less, and a million repeats of a letter not seconds
)
_STACK = 1 << 20  # bytes, for the trial: half of the least that a thread has by default
_VOCABULARIES = 2  # that the process keeps


class Vocabulary:
    """What llguidance asks of a tokenizer.

    `tokens` are the bytes of each; `special` ones are no text, and `added` ones are found whole in a text. `ends` end
    an answer. `encode` makes tokens of text as the tokenizer does.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        added: Sequence[int],
        ends: Sequence[int],
        bos: int | None,
        encode: Callable[[str], Sequence[int]] = lambda text: (),
    ):
        self.tokens, self.special_token_ids, self.ends = list(tokens), list(special), list(ends)
        self.eos_token_id, self.bos_token_id = self.ends[0], bos
        self._added, self._special, self._encode = list(added), frozenset(special), encode
        whole = frozenset(added)
        self._ids = {token: number for number, token in reversed([*enumerate(tokens)]) if number not in whole}
        self._longest = min(LONGEST_GREEDY, max(map(len, self._ids), default=0))

    @property
    def record(self) -> dict[str, Any]:
        """It in JSON's types, without `encode`: the arguments for `read`."""
        texts = [token.decode("latin-1") for token in self.tokens]
        lists = {"special": self.special_token_ids, "added": self._added, "ends": self.ends}
        return {"texts": texts, **lists, "bos": self.bos_token_id}

    @classmethod
    def read(cls, texts: Sequence[str], **others: Any) -> Vocabulary:
        """What `record` says."""
        return cls([text.encode("latin-1") for text in texts], **others)

    def made(self) -> LLTokenizer:
        """It as llguidance has it, which takes seconds for many tokens."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self), eos_token=self.ends)

    def __call__(self, text: bytes) -> Sequence[int]:
        """Tokens whose bytes are those of a text, or of its beginning: the model's own, if these are text."""
        text = text[:MOST_FORCED_BYTES]
        ids = self._encode(text.decode(errors="replace"))
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


def made(tokens: LLTokenizer, kind: str, text: str) -> LLMatcher:
    """The matcher of a kind of StructuredOutputs, which may be in error. Raises ValueError and RecursionError."""
    from llguidance import LLMatcher, LLParserLimits, grammar_from

    limits = LLParserLimits(max_lexer_states=LEXER_STATES, initial_lexer_fuel=LEXER_FUEL, verbose_errors=False)
    return LLMatcher(tokens, grammar_from(kind, text), log_level=0, limits=limits)  # type: ignore[arg-type]


class Trial:
    """Answers the requests of `Grammars`."""

    def __init__(self) -> None:
        self._known: dict[str, LLTokenizer] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, bool]:
        """Take a vocabulary in, or try a grammar: `known` is whether its vocabulary is."""
        name = request["name"]
        if "vocabulary" in request:
            signal.setitimer(signal.ITIMER_PROF, 0)  # no client wrote it
            while len(self._known) >= _VOCABULARIES:
                del self._known[next(iter(self._known))]
            self._known[name] = Vocabulary.read(**request["vocabulary"]).made()
        elif name in self._known:
            thread = threading.Thread(target=_try, args=(self._known[name], request["kind"], request["text"]))
            thread.start()
            thread.join()
        return {"known": name in self._known}


def _try(tokens: LLTokenizer, kind: str, text: str) -> None:
    """Come through, whatever it is."""
    try:
        matcher = made(tokens, kind, text)
    except (ValueError, RecursionError):  # which whoever asks finds out too
        return
    if not matcher.is_error():
        matcher.compute_ff_tokens()
        matcher.compute_bitmask()


if __name__ == "__main__":
    threading.stack_size(_STACK)
    serve(Trial().answer)
