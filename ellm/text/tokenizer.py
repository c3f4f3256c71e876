"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from ellm.system.errors import InputError
from ellm.text.backend import Backend
from ellm.text.call_id import CallIds
from ellm.text.chat_template import ChatTemplate, Conversation
from ellm.text.control_tokens import ControlTokens
from ellm.text.families import Chat, Style
from ellm.text.package_errors import telling
from ellm.text.parser import Everything
from ellm.text.reader import Reader
from ellm.text.template_process import PROCESS
from ellm.text.token_stream import TokenStream

_ALONE = 1 << 16  # texts of single tokens that are remembered
_PROMPT_END = 32  # tokens of a prompt that tell whether it opens reasoning


class Tokenizer:
    """A tokenizer with the conventions of its model.

    Attributes:
        source: the checkpoint, for messages.
        bos_id: id of the token that begins a sequence, or None.
        eos_ids: ids that end an answer.
        vocab_size: number of tokens, added ones included.
        notes: what a user should know of it, a line each.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        source: str,
        special_tokens: dict[str, str],
        eos_ids: Iterable[int] = (),
        add_bos: bool | None = None,
        chat_templates: dict[str, str] | None = None,
        notes: Sequence[str] = (),
    ):
        """Wrap a backend.

        Args:
            backend: does the work.
            source: the checkpoint, for messages.
            special_tokens: roles (`bos_token`, `eos_token`, ...) and their tokens.
            eos_ids: ids that end an answer beside `eos_token`.
            add_bos: whether a text begins with `bos_token`; None leaves that to the backend's own post-processor.
            chat_templates: by name; `default` serves, and `tool_use`, if there is one, when tools are given.
            notes: see above.

        Raises:
            InputError: bos_token or eos_token is not in the vocabulary.
        """
        self.backend = backend
        self.source = source
        self.notes = notes
        self._add_bos = add_bos
        templates = (chat_templates or {}).items()
        self._chat_templates = {name: ChatTemplate(text, special_tokens, source) for name, text in templates}
        if templates:
            PROCESS.start()  # while weights are loaded
        self._special_tokens = special_tokens
        self._alone = lru_cache(_ALONE)(lambda one, skip_special: self._decode([one], skip_special))
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

        Raises InputError if the text holds half a surrogate pair, or the tokenizer is broken.
        """
        ids = self._ids(self.backend, text, add_special)
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
        """The text of token ids. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary become nothing.

        Raises InputError if the tokenizer is broken.
        """
        return self._alone(ids[0], skip_special) if len(ids) == 1 else self._decode(ids, skip_special)

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        taken = [number for number in ids if 0 <= number < 1 << 32]  # what the package takes
        with telling(f"{self.source}: broken tokenizer"):
            return self.backend.decode(taken, skip_special_tokens=skip_special)

    def stream(self, skip_special: bool = True, prompt: Sequence[int] = ()) -> TokenStream:
        """An incremental `decode` of ids that follow a prompt."""
        return TokenStream(self, skip_special, prompt)

    def reader(
        self,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        chat: Chat | None = None,
        include_stop: bool = False,
    ) -> Reader:
        """What reads the tokens of an answer.

        Args:
            prompt: token ids. Without `chat` the text of the answer goes on where that of the prompt ends.
            stops: strings that end the answer; they are looked for in its text with all special tokens.
            chat: the prompt is from `chat`: reasoning and calls are told from the answer. Otherwise the answer is
                everything, and the marks of reasoning are in its text even if they are special tokens.
            include_stop: the stop string that comes is part of the answer.
        """
        if chat is None:
            everything = Everything(self._style.marks)
            return Reader(self.stream(prompt=prompt), everything, self._special, stops, include_stop=include_stop)
        parser = self._style.parser(self.decode(prompt[-_PROMPT_END:], skip_special=False), chat)
        marks = {number: token for number, token in self._added.items() if token in parser.marks}
        return Reader(self.stream(), parser, self._special | marks, stops, CallIds(prompt), include_stop)

    def call_grammar(self, chat: Chat) -> str:
        """What an answer keeps to that must call tools, in Lark's form. Raises InputError if that is not known."""
        return self._style.grammar(chat, {token: number for number, token in reversed(self._added.items())})

    @property
    def call_marks(self) -> Collection[str]:
        """The marks of the form in which the model writes calls."""
        return self._style.call_marks

    @property
    def writes_messages(self) -> bool:
        """Whether such a grammar is one of the reasoning before the calls too."""
        return self._style.writes_messages

    @property
    def whole_ids(self) -> Collection[int]:
        """The tokens that are found in a text before anything else."""
        return self._added.keys()

    @cached_property
    def _added(self) -> dict[int, str]:
        """The tokens that are matched whole in a text."""
        return {number: token.content for number, token in self.backend.get_added_tokens_decoder().items()}

    @cached_property
    def _special(self) -> dict[int, str]:
        """Those of them that `decode` leaves out."""
        added = self.backend.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items() if token.special}

    @cached_property
    def _style(self) -> Style:
        templates = [template.text for template in self._chat_templates.values()]
        return Style({*self._added.values()}, templates, {*self._special.values()})

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` and `chat` can work."""
        return "default" in self._chat_templates

    @property
    def _default_template(self) -> ChatTemplate:
        if not self.has_chat_template:
            raise InputError(f"{self.source}: the model has no chat_template; give it plain text instead of messages")
        return self._chat_templates["default"]

    def thinking(self, on: bool) -> dict[str, bool]:
        """The `chat_template_kwargs` that switch the model's thinking. Raises InputError if the template has none."""
        return self._default_template.thinking(on)

    def reads(self, variable: str) -> bool:
        """Whether the chat template reads a variable. Raises InputError if there is none."""
        return variable in self._default_template.variables

    def takes_tools(self, tool_parser: str | None = None) -> bool:
        """Whether tools change anything: the chat template reads them, or it is known how calls are written."""
        known = tool_parser is not None or self._style.family is not None
        return known or any("tools" in template.variables for template in self._chat_templates.values())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation.

        Args:
            messages: dicts with `role` and `content`, as in the OpenAI API; content may be a list of text parts.
            add_generation_prompt: end with the words that open the assistant's answer.
            tools: JSON schemas of the functions that the model may call.
            chat_template_kwargs: variables of the template, such as `{"enable_thinking": False}`.

        Raises:
            InputError: there is no template, the messages are malformed, the template does not read a variable, or it
                refuses the messages, fails on them or takes too long.
        """
        template, conversation = self._conversation(messages, add_generation_prompt, tools, chat_template_kwargs)
        return _text(template.render([conversation])[0])

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        parse_special: bool = False,
    ) -> list[int]:
        """Token ids of `render`, in which the template alone writes control tokens.

        Those that the messages, tools or variables hold become plain text, unless `parse_special`. Raises InputError
        as `render` does, and if such a token decides what the template makes.
        """
        template, conversation = self._conversation(messages, add_generation_prompt, tools, chat_template_kwargs)
        marked = None if parse_special else self._control_tokens.mark(template, conversation)
        if marked is not None:
            return self._ids(self._control_tokens.encoder(marked.mark), marked.text, add_special=False)
        return self.encode(_text(template.render([conversation])[0]), add_special=False)

    def _conversation(self, messages: Any, *arguments: Any) -> tuple[ChatTemplate, Conversation]:
        conversation = Conversation(messages, *arguments)
        template = self._default_template
        if conversation.tools:
            template = self._chat_templates.get("tool_use", template)
        return template, template.arranged(conversation)

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self.backend, {*self._special_tokens.values()}, self.eos_ids)

    def _ids(self, backend: Backend, text: str, add_special: bool) -> list[int]:
        with telling(f"{self.source}: broken tokenizer"):
            try:
                return backend.encode(text, add_special_tokens=add_special).ids
            except TypeError as error:  # what the package raises for lone surrogates
                raise InputError("the text is not valid Unicode") from error


def _text(rendered: str | InputError) -> str:
    if isinstance(rendered, InputError):
        raise rendered
    return rendered
