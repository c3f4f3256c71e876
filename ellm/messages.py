"""Messages that fit one line."""


def one_line(error: object, limit: int = 300) -> str:
    """The text of an error on one line of at most `limit` characters; its class name if it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
