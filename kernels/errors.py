"""The error that every layer raises for input that it refuses."""


class InputError(ValueError):
    """Input that cannot be used: a file, a field, an option. The message is one line for the user."""
