"""What the process that renders chat templates does: see `template_process`.

The environment is the one that Hugging Face templates are written for (transformers, utils/chat_template_utils.py):
sandboxed, block whitespace trimmed, `break` and `continue`, `{% generation %}`, and the names `raise_exception`,
`strftime_now` and `tojson`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ellm.system.errors import one_line
from ellm.system.limited_process import serve

LONGEST = 1 << 24  # characters of a prompt
_PROBE = "Kq7probe"


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - the attribute that Jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


_ENVIRONMENT = _environment()
_compiled: Any = lru_cache(maxsize=8)(_ENVIRONMENT.from_string)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request: `{"result": ...}`, or `{"error": line, "compiles": bool}`.

    `template` is a source. With `variables`, a list of dicts, the result is a list of what they render to, each
    `{"text": ...}` or `{"error": line}`, all at the same time of day; without, what `_examine` finds.
    """
    try:
        template = _compiled(request["template"])
        if "variables" not in request:
            return {"result": _examine(request["template"], template)}
    except Exception as error:  # also what Python raises for code that is nested too deeply
        return {"error": _line(error), "compiles": False}
    now = datetime.now()
    return {"result": [_render(template, variables, now) for variables in request["variables"]]}


def _render(template: Template, variables: dict[str, Any], now: datetime) -> dict[str, str]:
    try:
        text = template.render(strftime_now=now.strftime, **variables)
    except Exception as error:  # a template is foreign code: it can fail in any way
        return {"error": _line(error)}
    return {"text": text} if len(text) <= LONGEST else {"error": f"makes more than {LONGEST} characters"}


def _line(error: Exception) -> str:
    return "takes too much memory" if isinstance(error, MemoryError) else one_line(error)


def _examine(text: str, template: Template) -> dict[str, Any]:
    """The variables that a template reads, and the forms of messages that it takes, by what it makes of some.

    `text`: content that is a text; `parts`: content that is a list of parts; `objects`: arguments of tool calls that
    are objects and not JSON; `preamble`: content beside reasoning in a message with tool calls.
    """
    read = meta.find_undeclared_variables(_ENVIRONMENT.parse(text)) - _ENVIRONMENT.globals.keys() - {"strftime_now"}
    question = {"role": "user", "content": _PROBE}
    parts = _probe(template, [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
    objects, texts = (
        _probe(template, [question, {"role": "assistant", "content": "", "tool_calls": [_call(arguments)]}])
        for arguments in ({_PROBE + "key": "x"}, json.dumps({_PROBE + "key": "x"}))
    )
    thoughtful = {"role": "assistant", "thinking": _PROBE, "reasoning_content": _PROBE, "tool_calls": [_call({})]}
    alone, beside = (_probe(template, [question, {**thoughtful, "content": text}]) for text in ("", _PROBE))
    return {
        "variables": sorted(read),
        "text": _PROBE in _probe(template, [question]),
        "parts": _PROBE in parts and "'type'" not in parts and '"type"' not in parts,
        "preamble": bool(beside) or not alone,
        "objects": _PROBE + "key" not in texts or (_PROBE + "key" in objects and f"'{_PROBE}key'" not in objects),
    }


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}


def _probe(template: Template, messages: list[dict[str, Any]]) -> str:
    variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
    return _render(template, variables | special, datetime.now()).get("text", "")


if __name__ == "__main__":
    serve(answer)
