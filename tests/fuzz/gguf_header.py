"""The header of a GGUF file in parts that can be changed one at a time, and written again."""

import random
import struct
from dataclasses import dataclass

import gguf

_ARRAY, _STRING = 9, 8
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NUMBERS = (0, 1, 2, 3, 5, 32, 255, -1, 1e-5, 0.5, 1e30, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e-40, 1e38)
_STRINGS = (
    "",
    "x",
    "llama",
    "none",
    "linear",
    "yarn",
    "longrope",
    "gpt2",
    "default",
    "\0",
    "a b",
    "é",
    "<s>",
    "a" * 99,
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe", "gpt-oss", "glm4moe", "smollm3", "phi3", "gemma3")


class Broken(Exception):
    """What was read is no header."""


def _keys(group: type) -> list[str]:
    found = []
    for value in vars(group).values():
        if isinstance(value, type):
            found += _keys(value)
        elif isinstance(value, str) and ("." in value):
            found.append(value)
    return found


_KEYS = sorted(set(_keys(gguf.Keys)))


@dataclass
class Header:
    """Lists, so that they can be changed: fields [key, type, value], tensors [name, dims, type, offset].

    The value of an array is [type, values].
    """

    version: int
    fields: list[list]
    tensors: list[list]
    data: bytes


class _Reader:
    def __init__(self, content: bytes):
        self._content, self.place = content, 0

    def number(self, format: str):
        try:
            (value,) = struct.unpack_from(f"<{format}", self._content, self.place)
        except struct.error as error:
            raise Broken from error
        self.place += struct.calcsize(f"<{format}")
        return value

    def string(self) -> bytes:
        length = self.number("Q")
        if length > len(self._content):
            raise Broken
        self.place += length
        return self._content[self.place - length : self.place]

    def value(self, kind: int):
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.number("I"), self.number("Q")
            if count > len(self._content) or kind == _ARRAY:
                raise Broken
            return [kind, [self.value(kind) for _ in range(count)]]
        if kind not in _FORMATS:
            raise Broken
        return self.number(_FORMATS[kind])


def read(content: bytes) -> Header:
    """The parts of a file. Raises Broken."""
    reader = _Reader(content)
    reader.number("I")
    version, tensors, fields = reader.number("I"), reader.number("Q"), reader.number("Q")
    if tensors + fields > len(content):
        raise Broken
    found = Header(version, [], [], b"")
    for _ in range(fields):
        key, kind = reader.string(), reader.number("I")
        found.fields.append([key, kind, reader.value(kind)])
    for _ in range(tensors):
        name, dims = reader.string(), reader.number("I")
        if dims > 8:
            raise Broken
        sizes = [reader.number("Q") for _ in range(dims)]
        found.tensors.append([name, sizes, reader.number("I"), reader.number("Q")])
    found.data = content[-(-reader.place // 32) * 32 :]
    return found


def write(header: Header) -> bytes:
    """The file of these parts."""
    parts = [b"GGUF", struct.pack("<IQQ", header.version, len(header.tensors), len(header.fields))]
    for key, kind, value in header.fields:
        parts += [_string(key), struct.pack("<I", kind), _value(kind, value)]
    for name, dims, kind, offset in header.tensors:
        sizes = b"".join(struct.pack("<Q", size & (1 << 64) - 1) for size in dims)
        parts += [_string(name), struct.pack("<I", len(dims)), sizes, struct.pack("<IQ", kind, offset & (1 << 64) - 1)]
    found = b"".join(parts)
    return found + bytes(-len(found) % 32) + header.data


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(kind: int, value) -> bytes:
    if kind == _STRING:
        return _string(value)
    if kind == _ARRAY:
        kind, values = value
        return struct.pack("<IQ", kind, len(values)) + b"".join(_value(kind, one) for one in values)
    if kind == 7:
        return bytes([bool(value)])
    if kind in (6, 12):
        try:
            return struct.pack(f"<{_FORMATS[kind]}", value)
        except OverflowError:
            return struct.pack(f"<{_FORMATS[kind]}", float("inf"))
    size = struct.calcsize(_FORMATS[kind])
    return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")


def changed(draw: random.Random, content: bytes, other: bytes) -> bytes:
    """A file with one change; `other` gives parts. Raises Broken if it cannot be read."""
    header = read(content)
    if header.tensors and draw.random() < 0.3:
        _change_tensor(draw, header)
    elif not header.fields or draw.random() < 0.25:
        _add_field(draw, header, other)
    else:
        place = draw.randrange(len(header.fields))
        kind = draw.randrange(5)
        field = header.fields[place]
        if kind == 0:
            del header.fields[place]
        elif kind == 1:
            field[1:] = _any(draw)
        elif kind == 2 and field[0].count(b"."):
            field[0] = field[0].rpartition(b".")[0] + b"." + draw.choice(header.fields)[0].rpartition(b".")[2]
        else:
            field[2] = _near(draw, field[1], field[2])
    return write(header)


def _change_tensor(draw: random.Random, header: Header) -> None:
    place = draw.randrange(len(header.tensors))
    tensor, other = header.tensors[place], draw.choice(header.tensors)
    kind = draw.randrange(7)
    if kind == 0:
        del header.tensors[place]
    elif kind == 1:
        tensor[0] = draw.choice(
            (other[0].replace(b"weight", b"bias"), other[0], b"rope_freqs.weight", b"blk.9.x.weight")
        )
    elif kind == 2:
        tensor[1] = draw.choice((other[1], tensor[1][::-1], tensor[1][:-1], [*tensor[1], 1]))
    elif kind == 3 and tensor[1]:
        tensor[1][draw.randrange(len(tensor[1]))] = draw.choice((0, 1, 2, 32, 64, 2**31, 2**32, 2**63, 2**64 - 1))
    elif kind == 4:
        tensor[2] = draw.randrange(45)
    elif kind == 5:
        tensor[3] = draw.choice((other[3], tensor[3] + 32, tensor[3] + 1, 2**40, 2**63, 2**64 - 1))
    else:
        header.tensors.append([tensor[0].replace(b"weight", b"bias"), [tensor[1][-1]], 0, tensor[3]])


def _add_field(draw: random.Random, header: Header, other: bytes) -> None:
    names = [field[2] for field in header.fields if field[0] == b"general.architecture"]
    architecture = names[0].decode(errors="replace") if names and isinstance(names[0], bytes) else "llama"
    taken = read(other).fields if other and draw.random() < 0.3 else []
    if taken:
        header.fields.append(draw.choice(taken))
    else:
        key = draw.choice(_KEYS).replace("{arch}", architecture).replace("{name}", "x")
        header.fields.append([key.encode(), *_any(draw)])


def _any(draw: random.Random) -> tuple:
    kind = draw.choice((*_FORMATS, _STRING, _STRING, _ARRAY, _ARRAY))
    if kind != _ARRAY:
        return kind, _one(draw, kind)
    kind = draw.choice((*_FORMATS, _STRING))
    return _ARRAY, [kind, [_one(draw, kind) for _ in range(draw.choice((0, 1, 1, 2, 5)))]]


def _one(draw: random.Random, kind: int):
    if kind == _STRING:
        return draw.choice((*_STRINGS, *ARCHITECTURES)).encode()
    return draw.choice((*_NUMBERS, *_FLOATS) if kind in (6, 12) else _NUMBERS)


def _near(draw: random.Random, kind: int, value):
    """A value of the same type."""
    if kind == _ARRAY:
        one, values = value[0], [*value[1]]
        if values and draw.random() < 0.6:
            place = draw.randrange(len(values))
            values[place] = draw.choice((_one(draw, one), draw.choice(values)))
        else:
            values = draw.choice((values[:-1], values + values[:1], values * 2, [], values[::-1]))
        return [one, values]
    if kind == _STRING and draw.random() < 0.5:
        place = draw.randrange(len(value) + 1)
        return (
            value[:place] + draw.choice((b"", b"x", b" ", b"\0", b"\xff", b"<s>", b"{%", b"{{x}}")) + value[place + 1 :]
        )
    if kind != _STRING and draw.random() < 0.5:
        return draw.choice((value + 1, value - 1, value * 2, -value))
    return _one(draw, kind)
