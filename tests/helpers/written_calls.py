"""Calls of tools as families of models write them, and what is read of them."""

import json

from ellm.serving.output import ToolCall
from ellm.text import harmony
from ellm.text.families import Chat, Style, named

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": ["boolean", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "time")]
ARGUMENTS = {"city": 'Zürich "x"', "days": 3, "exact": True, "tags": ["a", "b"]}
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
TWO = {  # what families write for weather(**ARGUMENTS) and time()
    "openai": " to=functions.weather<|channel|>commentary <|constrain|>json<|message|>"
    + JSON
    + "<|call|><|start|>assistant to=functions.time<|channel|>commentary<|message|>{}",
    "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {JSON}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=weather>\n<parameter=city>\n"
    + 'Zürich "x"\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n'
    + '<parameter=tags>\n["a", "b"]\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=time>\n</function>'
    + "\n</tool_call>",
    "glm45": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>"
    + 'Zürich "x"</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>exact</arg_key>\n'
    + '<arg_value>true</arg_value>\n<arg_key>tags</arg_key>\n<arg_value>["a", "b"]</arg_value>\n</tool_call>\n'
    + "<tool_call>time\n</tool_call>",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"  # noqa: RUF001
    + JSON
    + "\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```"  # noqa: RUF001
    + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: RUF001
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"  # noqa: RUF001
    + JSON
    + "<｜tool▁call▁end｜><｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: RUF001
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    + JSON
    + "<|tool_call_end|><|tool_call_begin|>functions.time:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
    + "<|tool_calls_section_end|>",
    "minimax": f'<tool_calls>\n{{"name": "weather", "arguments": {JSON}}}\n{{"name": "time", "arguments": {{}}}}\n'
    "</tool_calls>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Zürich "x"</parameter>\n'
    '<parameter name="days">3</parameter>\n<parameter name="exact">true</parameter>\n'
    '<parameter name="tags">["a", "b"]</parameter>\n</invoke>\n<invoke name="time">\n</invoke>\n</minimax:tool_call>',
    "mistral": f"[TOOL_CALLS]weather[ARGS]{JSON}[TOOL_CALLS]time[ARGS]{{}}",
    "llama3_json": f'{{"name": "weather", "parameters": {JSON}}}; {{"name": "time", "parameters": {{}}}}',
    "pythonic": "[weather(city='Zürich \"x\"', days=3, exact=True, tags=['a', 'b']), time()]",
    "llama4_pythonic": "<|python_start|>[weather(city='Zürich \"x\"', days=3, exact=True, tags=['a', 'b']), time()]"
    "<|python_end|>",
}
SPECIAL = {"<|eot|>"}


def tokens_of(name):
    """The marks of a family that can be tokens."""
    form = named(name).form
    return {*SPECIAL, *(harmony.MARKS if form is None else form.marks)} - {""}


def read(name, text, sizes=(1,), are_tokens=True, prompt="", tools=TOOLS):
    """The pieces of an answer, whose marks are tokens or not, cut into texts of these sizes in turn."""
    tokens = tokens_of(name) if are_tokens else {*SPECIAL}
    if name == "openai":
        tokens = tokens_of(name)
    parser = Style({*tokens, "<think>", "</think>"} if are_tokens else tokens, ["<think></think>"], SPECIAL).parser(
        prompt, Chat(tools, name)
    )
    pieces, count = [], 0
    for part, is_token in split(text, parser.marks):
        if is_token:
            pieces += parser.mark(part)
            continue
        while part:
            size = sizes[count % len(sizes)]
            count += 1
            pieces += parser.text(part[:size])
            part = part[size:]
    return pieces + parser.finish()


def split(text, marks):
    """The text's parts, and whether each is a token."""
    begin = at = 0
    ordered = sorted(filter(None, marks), key=len, reverse=True)
    while at < len(text):
        token = next((mark for mark in ordered if text.startswith(mark, at)), None)
        if token is None:
            at += 1
            continue
        if begin < at:
            yield text[begin:at], False
        yield token, True
        begin = at = at + len(token)
    if begin < at:
        yield text[begin:at], False


def whole(pieces):
    """What a client has at the end."""
    texts = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("answer", "reasoning", "rest")}
    return {**texts, "calls": [(call.name, call.arguments) for call in ToolCall.of(pieces)]}


def called(pieces):
    return [(name, json.loads(arguments)) for name, arguments in whole(pieces)["calls"]]
