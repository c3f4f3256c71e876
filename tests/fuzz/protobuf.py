"""The wire format of protobuf: messages as fields, without knowing what they mean."""


def fields(content: bytes) -> list[tuple[int, int | bytes]]:
    """Tags and values of a message. Raises ValueError or IndexError if it is none."""
    found: list[tuple[int, int | bytes]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = content[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while place < len(content):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag, varint()))
            continue
        if tag & 7 not in (1, 2, 5):
            raise ValueError("a type that is not in use")
        length = {1: 8, 5: 4}.get(tag & 7) or varint()
        if place + length > len(content):
            raise ValueError("cut off")
        found.append((tag, content[place : place + length]))
        place += length
    return found


def field(tag: int, value: int | bytes) -> bytes:
    """One field of a message as it is written."""
    if isinstance(value, int):
        return _varint(tag) + _varint(value)
    return _varint(tag) + (_varint(len(value)) if tag & 7 == 2 else b"") + value


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
