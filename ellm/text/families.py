"""How the families of models write reasoning and calls: a record for each, and which one a model is.

A family's marks are tokens of its tokenizer, and only these tokens count then: text that spells one is text. Where a
tokenizer has no such tokens but the chat template writes them, they are text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ellm.system.errors import InputError
from ellm.text import harmony, kimi_k3
from ellm.text.argument_types import Tools
from ellm.text.blocks import Block, Blocks, Calls
from ellm.text.call_form import Form
from ellm.text.call_grammar import CallGrammar
from ellm.text.gemma_calls import Gemma
from ellm.text.harmony import Harmony
from ellm.text.json_calls import Named, Objects
from ellm.text.kimi_k3 import KimiK3
from ellm.text.parser import Everything, Parser
from ellm.text.python_form import Pythonic
from ellm.text.tagged_calls import Pairs, Tagged

BLOCKS = (
    Block("<think>", "</think>"),  # Qwen3, DeepSeek R1, GLM, SmolLM3, Nemotron
    Block("[THINK]", "[/THINK]"),  # Mistral
    Block("<seed:think>", "</seed:think>"),  # Seed-OSS
    Block("<longcat_think>", "</longcat_think>"),
    Block("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Block("◁think▷", "◁/think▷"),  # Kimi
    Block("<thought>", "</thought>"),  # EXAONE
    Block("<|channel>", "<channel|>", "thought\n"),  # Gemma 4
)


@dataclass(frozen=True)
class Family:
    """How a family writes calls.

    Attributes:
        name: as vLLM calls its parser.
        signs: all of them are in its chat template, or are tokens.
        form: None if messages have a grammar of their own (`Style.parser`).
        trims, end_reasoning, plain: see `blocks.Calls`.
    """

    name: str
    signs: tuple[str, ...]
    form: Form | None
    trims: bool = False
    end_reasoning: bool = False
    plain: tuple[str, ...] = ()


def _deepseek_elements(section: str, space: str = "") -> Tagged:
    begin, end = f"<｜DSML｜{space}", f"</｜DSML｜{space}"  # noqa: RUF001 - DeepSeek's names
    return Tagged(
        function=(begin + "invoke", f"{end}invoke>"),
        parameter=(begin + "parameter", f"{end}parameter>"),
        sections=((f"{begin}{section}>", f"{end}{section}>"),),
        says_strings=True,
    )


_DEEPSEEK = Named(
    begins=("<｜tool▁call▁begin｜>",),  # noqa: RUF001
    before_arguments="<｜tool▁sep｜>",  # noqa: RUF001
    ends=("<｜tool▁call▁end｜>",),  # noqa: RUF001
    sections=(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),),  # noqa: RUF001
    fenced=True,
)
_GLM = Pairs(("<tool_call>",), "</tool_call>", ("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>"))
_DSML = ("｜DSML｜",)  # noqa: RUF001

FAMILIES = (  # a model is the first one whose signs it has
    Family("openai", harmony.NEEDED, None),
    Family("kimi_k3", kimi_k3.MARKS, None),
    Family("gemma4", ("<|tool_call>",), Gemma()),
    Family("deepseek_v41", (*_DSML, "<｜DSML｜ calls>"), _deepseek_elements("calls", " "), True, plain=_DSML),  # noqa: RUF001
    Family("deepseek_v4", (*_DSML, "｜DSML｜tool_calls>"), _deepseek_elements("tool_calls"), True, plain=_DSML),  # noqa: RUF001
    Family("deepseek_v32", _DSML, _deepseek_elements("function_calls"), True, plain=_DSML),
    Family(
        "deepseek_v3",
        ("<｜tool▁calls▁begin｜>", "```json"),  # noqa: RUF001
        replace(_DEEPSEEK, writes_fences=True),
    ),
    Family("deepseek_v31", ("<｜tool▁calls▁begin｜>",), _DEEPSEEK),  # noqa: RUF001
    Family(
        "kimi_k2",
        ("<|tool_calls_section_begin|>",),
        Named(
            begins=("<|tool_call_begin|>",),
            before_arguments="<|tool_call_argument_begin|>",
            ends=("<|tool_call_end|>",),
            sections=(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
            name=r"(?:functions\.)?(.+?)(?::\d+)?",
            name_is_id=True,
        ),
    ),
    Family(
        "minimax_m2",
        ("<minimax:tool_call>",),
        Tagged(
            function=("<invoke", "</invoke>"),
            parameter=("<parameter", "</parameter>"),
            sections=(("<minimax:tool_call>", "</minimax:tool_call>"),),
        ),
        trims=True,
    ),
    Family("glm47", ("<arg_key>",), _GLM, trims=True),
    Family("glm45", ("<arg_key>",), _GLM, trims=True),
    Family(
        "qwen3_coder",
        ("<function=", "<parameter="),
        Tagged(
            function=("<function=", "</function>"),
            parameter=("<parameter=", "</parameter>"),
            around=("<tool_call>", "</tool_call>"),
            lines=True,
        ),
        trims=True,
        end_reasoning=True,
    ),
    Family(
        "mistral",
        ("[TOOL_CALLS]",),
        Named(("[TOOL_CALLS]",), before_arguments="[ARGS]", before_id="[CALL_ID]", or_objects=True),
    ),
    Family("minimax", ("<tool_calls>",), Objects(("<tool_calls>",), ends=("</tool_calls>",)), trims=True),
    Family("hermes", ("<tool_call>",), Objects(("<tool_call>",), ends=("</tool_call>",)), trims=True),
    Family(
        "llama4_pythonic",
        ("<|python_start|>", "<|python_end|>"),
        Pythonic(begins=("<|python_start|>",), ends=("<|python_end|>",)),
    ),
    Family("llama3_json", ("<|python_tag|>",), Objects(("<|python_tag|>",), bare="{")),
    Family("pythonic", ("\0",), Pythonic()),  # no sign tells it
)
_NAMED = {family.name: family for family in FAMILIES}


class Chat(NamedTuple):
    """How the answer to a conversation is read.

    Attributes:
        tools: that were offered; without any, no calls are looked for.
        tool_parser: the name of the family that writes the calls, instead of the one that is found.
        must_call: whether the answer has to be calls.
        name: of the tool that has to be called, once; None: any of them.
    """

    tools: Sequence[Any] = ()
    tool_parser: str | None = None
    must_call: bool = False
    name: str | None = None


class Style:
    """How a model marks reasoning and calls, if it does.

    Attributes:
        marks: the tokens that are marks of reasoning.
        family: None if calls are in no form that is known.
    """

    def __init__(self, tokens: Collection[str], templates: Iterable[str], special: Collection[str] = ()):
        """Choose by the tokens that a tokenizer matches whole, and by the chat templates.

        Args:
            tokens: all of them.
            templates: texts of chat templates.
            special: which of the tokens are not shown.
        """
        text = "\n".join(templates)
        self._tokens, self._special = frozenset(tokens), special
        self.family = next((one for one in FAMILIES if all(s in tokens or s in text for s in one.signs)), None)
        self._harmony = all(token in tokens for token in harmony.NEEDED)
        block = next((one for one in BLOCKS if one.begin in tokens and one.end in tokens), None)
        self.marks: Collection[str] = harmony.NEEDED if self._harmony else (block.begin, block.end) if block else ()
        if not self.marks:
            block = next((one for one in BLOCKS if one.end in text), None)
        self._block = block

    @property
    def call_marks(self) -> Collection[str]:
        """The marks of the form in which calls are written."""
        return self.family.form.marks if self.family is not None and self.family.form is not None else ()

    @property
    def writes_messages(self) -> bool:
        """Whether a grammar of calls is one of the reasoning before them too, as both are messages."""
        return self._harmony

    def grammar(self, chat: Chat, tokens: Mapping[str, int]) -> str:
        """The grammar of an answer that must be calls; `tokens` are the ids of those that are matched whole.

        Raises InputError if it is not known how the model writes calls.
        """
        name = chat.name
        family = self.family if chat.tool_parser is None else named(chat.tool_parser)
        offered = Tools(chat.tools)
        grammar = CallGrammar(offered, offered.names if name is None else [name], tokens)
        if self._harmony:
            return grammar.text(harmony.write(grammar))
        if family is None or family.form is None:
            raise InputError("tool_choice: it is not known how this model writes calls, so none can be demanded")
        form = family.form
        call = grammar.rule(form.write(grammar))
        calls = call if name is not None or form.bare else f'{call} ("\\n"? {call})*'
        for begin, end in form.sections:
            feed = ' "\\n"' if family.trims else ""
            calls = f"{grammar.mark(begin)}{feed} {calls}{feed} {grammar.mark(end)}"
        return grammar.text(calls)

    def parser(self, prompt: str, chat: Chat = Chat()) -> Parser:  # noqa: B008 - a tuple
        """What takes an answer apart, given the end of the prompt's text. Raises InputError as `named` does."""
        family = self.family if chat.tool_parser is None else named(chat.tool_parser)
        offered = Tools(chat.tools) if chat.tools and family is not None else None
        if self._harmony:
            return Harmony(prompt, offered)
        if family is not None and family.name == "kimi_k3":
            return KimiK3(prompt, offered, self._special)
        calls = None
        if offered is not None and family is not None and family.form is not None:
            special = self._special
            calls = Calls(family.form, offered, special, family.plain, family.trims, family.end_reasoning)
        if self._block is None and calls is None:
            return Everything()
        return Blocks(self._block, calls, self._tokens, prompt)


def named(name: str) -> Family:
    """The family of a name. Raises InputError if there is none."""
    if name not in _NAMED:
        raise InputError(f"tool_parser must be one of {', '.join(_NAMED)}, not {name!r}")
    return _NAMED[name]
