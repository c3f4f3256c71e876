"""The error for input that is refused, which every layer raises, and texts of errors that fit one line."""

import sys

LONGEST = 1000  # of what untrusted files can put into a message


class InputError(ValueError):
    """Input that cannot be used: a file, a field, an option.

    The message is one line for the user, whatever characters the names in it have: they may be from untrusted files.
    """

    def __init__(self, message: object):
        super().__init__(harmless(str(message)))


class PromptError(InputError):
    """A prompt, or a conversation, that cannot be used."""


class PromptTooLong(PromptError):
    """A prompt that has more tokens than the context."""


def tell(message: object) -> None:
    """One line on stderr about what costs nothing but itself, and ends nothing."""
    print(f"ellm: {printable(str(message))}", file=sys.stderr, flush=True)


def one_line(error: object, limit: int = 300) -> str:
    """The text of an error on one line of at most `limit` characters; its class name if it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(message: str) -> str:
    """A message on one line, cut if it is very long, that does nothing to a terminal."""
    return harmless(one_line(message, LONGEST))


def harmless(line: str) -> str:
    """A line in which characters that would do something to a terminal are written as Python would escape them."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
