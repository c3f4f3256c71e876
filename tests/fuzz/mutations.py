"""Changes to the files of a model, by what a file is: small ones, drawn from a random generator alone."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import gguf_header
import protobuf

Files = dict[str, bytes]

_DEEP: list = []
for _ in range(300):
    _DEEP = [_DEEP]
ODD = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-300, 1e308, float("inf"), float("nan")),
    *(2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**400, -(2**63)),
    *("", "x", " ", "\0", "\n", "\ud800", "\u2581", "é", "<s>", "ab" * 3000, "(", "(a*)*$", "\\p{L}+|", "0", "-1"),
    *([], {}, [None], [[]], [0] * 5, ["x", "x"], {"": None}, {"type": "x"}, [{}], _DEEP),
]
_JINJA = [
    *("{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", "{%if x%}", "{%else%}", "{%endif%}", "{%endfor%}", "{%break%}"),
    *(
        "{%for m in messages%}",
        "{%set x=1%}",
        "{%macro f(a)%}",
        "{%endmacro%}",
        "{{f(f)}}",
        "{%call f()%}",
        "{%endcall%}",
    ),
    *("{%generation%}", "{%endgeneration%}", "{%filter upper%}", "{%include 'x'%}", "{%extends 'x'%}", "{%raw%}"),
    *("{%import 'x' as y%}", "{%block a%}", "{%endblock%}", "{%endraw%}", "messages", "messages[0]", "m.role", "self"),
    *(
        "m['content']",
        "m.tool_calls",
        "loop.index0",
        "loop.length",
        "range(9**9)",
        "9**9**9",
        "'x'*99999999",
        "caller()",
    ),
    *("|tojson", "|tojson(indent=9**9)", "|join", "|map('upper')", "|selectattr('role')", "|groupby('role')", "|sort"),
    *("|format(1)", "|default('')", "|trim", "|length", "|int", "|list", "|first", "|replace('a','b')", "|string"),
    *(
        "|safe",
        "|indent(9**8)",
        "|batch(3)",
        "|slice(9**9)|list",
        "|center(9**9)",
        "|round(-999)",
        "|random",
        "|tojson",
    ),
    *(".__class__", ".__init__.__globals__", "|attr('__class__')", ".format(x)", ".split('')", "[::-1]", "[-1]"),
    *("[:9**9]", " is defined", " is string", " is mapping", "raise_exception('x')", "raise_exception(messages)"),
    *("strftime_now('%Y')", "strftime_now('%')", "strftime_now(1)", "namespace(a=1)", "dict(a=1)", "lipsum(n=9**4)"),
    *("cycler(1)", "joiner(',')", "tools", "bos_token", "add_generation_prompt", " not ", " and ", " or ", " in ", "~"),
    *(
        "//",
        "%",
        "**",
        "(",
        ")",
        "[",
        "]",
        ",",
        "varargs",
        "\\n",
        "\\",
        "'",
        '"',
        "\0",
        "é",
        "🙂",
        "\ufdd0",
        "</think>",
    ),
]


def mutate(draw: random.Random, files: Files, others: list[Files], fixed: tuple[str, ...]) -> Files:
    """The files with one to some changes; `others` give parts, and files named in `fixed` stay as they are."""
    found = dict(files)
    while True:
        names = [name for name in found if name not in fixed]
        if not names:
            return found
        name, other = draw.choice(names), draw.choice(others)
        if len(names) > 1 and draw.random() < 0.03:
            del found[name]
        elif draw.random() < 0.03:
            found |= {name: other[name] for name in [draw.choice([*other])] if name not in fixed}
        else:
            found[name] = _KINDS[Path(name).suffix](draw, found[name], other.get(name, b""))
        if draw.random() < 0.5:
            return found


def _bytes(draw: random.Random, content: bytes, other: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    length = min(draw.choice((1, 1, 2, 4, 8, 64, 1024)), len(content) - place)
    part = content[place : place + length]
    put = draw.choice(
        (
            b"",
            part + part,
            draw.randbytes(length),
            part[::-1],
            other[place : place + 2 * length],
            b"[" * 2000,
            bytes(length),
            draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)).to_bytes(8, "little"),
        )
    )
    return content[:place] if draw.random() < 0.03 else content[:place] + put + content[place + length :]


def _json(draw: random.Random, content: bytes, other: bytes) -> bytes:
    try:
        value = json.loads(content)
        if draw.random() < 0.1:
            return _bytes(draw, content, other)
        return json.dumps(changed(draw, value, json.loads(other or b"null"))).encode()
    except (ValueError, RecursionError):
        return _bytes(draw, content, other)


def changed(draw: random.Random, value, other):
    """A JSON value with one change, often of a part that stands deep in it."""
    places = _places(value)
    if not places:
        return draw.choice(ODD)
    holder, key = draw.choice(places)
    kind = draw.randrange(7)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = draw.choice(ODD)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 2:
        holder[draw.choice((*map(str, ODD[:24]), f"{key}x", key.upper()))] = holder[key]
    elif kind == 3:
        second, name = draw.choice(places)
        if name in second if isinstance(second, dict) else name < len(second):
            holder[key], second[name] = _copy(second[name]), _copy(holder[key])
    elif kind == 4 and (given := _places(other)):
        second, name = draw.choice(given)
        holder[key if isinstance(holder, list) else draw.choice((key, str(name)))] = second[name]
    else:
        holder[key] = _near(draw, holder[key])
    return value


def _copy(value):
    return json.loads(json.dumps(value))


def _places(value) -> list[tuple]:
    """The parts of a value, as what holds them and where in it."""
    found, left = [], [value]
    while left:
        holder = left.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            left += [holder[key] for key in keys]
    return found


def _near(draw: random.Random, value):
    """A value of the same type, or of one that it may be taken for."""
    if isinstance(value, bool):
        return draw.choice((not value, int(value), str(value)))
    if isinstance(value, int | float):
        ways: tuple[Callable, ...] = (lambda: value + 1, lambda: value - 1, lambda: -value, lambda: value * 2)
        ways += (lambda: float(value), lambda: str(value), lambda: [value], lambda: value * 2**20, lambda: value // 2)
        try:
            return draw.choice(ways)()
        except (OverflowError, ValueError):
            return 0
    if isinstance(value, str):
        place = draw.randrange(len(value) + 1)
        put = draw.choice(("", "x", " ", "\0", "\ud800", "🙂", value, "$", "|", "\\", "["))
        return draw.choice((value[:place] + put + value[place + 1 :], value[:place] + put + value[place:], [value]))
    if isinstance(value, list):
        return draw.choice((value[:-1], value * 2, value[::-1], dict(enumerate(map(str, value)))))
    return [value]


def _text(draw: random.Random, content: bytes, other: bytes) -> bytes:
    """Jinja or lines of words: takes words away, doubles them, or puts others there."""
    words = re.findall(rb"\w+|\s+|[{}%#-]+|.", content, re.DOTALL)
    if not words or draw.random() < 0.1:
        return _bytes(draw, content, other)
    place = draw.randrange(len(words))
    length = draw.choice((1, 1, 1, 2, 5, 20))
    put = draw.choice(
        (
            [],
            words[place : place + length] * 2,
            [draw.choice(_JINJA).encode()],
            [draw.choice(_JINJA).encode(), *words[place : place + length]],
            [draw.choice(words)],
            re.findall(rb"\w+|\s+|[{}%#-]+|.", other, re.DOTALL)[place : place + length],
        )
    )
    words[place : place + length] = put
    return b"".join(words)


def _safetensors(draw: random.Random, content: bytes, other: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    if draw.random() < 0.15 or size > len(content):
        return _bytes(draw, content, other)
    header = _json(draw, content[8 : 8 + size], other[8 : 8 + int.from_bytes(other[:8], "little")])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _model(draw: random.Random, content: bytes, other: bytes) -> bytes:
    """A protobuf message: changes a field of it, or of a message in it."""
    try:
        fields = protobuf.fields(content)
    except (IndexError, ValueError):
        return _bytes(draw, content, other)
    if not fields or draw.random() < 0.1:
        return _bytes(draw, content, other)
    place = draw.randrange(len(fields))
    tag, value = fields[place]
    kind = draw.randrange(6)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(place, draw.choice(fields))
    elif kind == 2:
        fields[place] = (draw.choice((tag, tag ^ draw.randrange(8), tag + 8, draw.randrange(400))), value)
    elif isinstance(value, int):
        fields[place] = (tag, draw.choice((0, 1, 2, 3, value + 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
    else:
        fields[place] = (tag, _model(draw, value, other) if kind < 5 and tag & 7 == 2 else _bytes(draw, value, other))
    return b"".join(protobuf.field(*field) for field in fields)


def _gguf(draw: random.Random, content: bytes, other: bytes) -> bytes:
    if draw.random() < 0.15:
        return _bytes(draw, content, other)
    try:
        return gguf_header.changed(draw, content, other)
    except (gguf_header.Broken, IndexError):
        return _bytes(draw, content, other)


_KINDS: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    ".json": _json,
    ".safetensors": _safetensors,
    ".gguf": _gguf,
    ".model": _model,
    ".jinja": _text,
    ".txt": _text,
}
