"""What stands where a model has no tokenizer: token ids go in and come out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ellm.system.errors import InputError
from ellm.text.chat_template import ChatTemplate
from ellm.text.families import Chat
from ellm.text.parser import Everything
from ellm.text.reader import Reader
from ellm.text.tokenizer import Tokenizer


class TokenIds(Tokenizer):
    """Whatever needs text raises InputError; the text of a stream is empty.

    Attributes:
        source: the checkpoint, for messages.
        eos_ids: ids that end an answer.
    """

    def __init__(self, source: str, eos_ids: Iterable[int]):
        self.source = source
        self.notes = ()
        self.bos_id = None
        self.eos_ids = {*eos_ids}

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Raises InputError."""
        raise self.error("prompts are lists of token ids")

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Raises InputError."""
        raise self.error("answers are lists of token ids")

    def reader(
        self,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        chat: Chat | None = None,
        include_stop: bool = False,
    ) -> Reader:
        """A reader of no text."""
        return Reader(_NoText(), Everything(), {}, stops)

    @property
    def whole_ids(self) -> Collection[int]:
        """None: there is no text."""
        return ()

    @property
    def has_chat_template(self) -> bool:
        """Raises InputError."""
        raise self.error("prompts are lists of token ids")

    @property
    def _default_template(self) -> ChatTemplate:
        raise self.error("prompts are lists of token ids")

    def error(self, instead: str) -> InputError:
        """Make the error of what needs text; the caller raises it."""
        return InputError(f"{self.source}: has no tokenizer, so {instead}")


class _NoText:
    def push(self, token_id: int, /) -> str:
        return ""

    def finish(self) -> str:
        return ""
