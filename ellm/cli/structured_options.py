"""The options of `ellm run` that say what an answer must be like."""

from __future__ import annotations

import json
from pathlib import Path

from ellm.serving.structured import MOST_BYTES, StructuredOutputs
from ellm.system.errors import InputError, one_line


def structured_outputs(json_schema: str | None, grammar: str | None, regex: str | None) -> StructuredOutputs | None:
    """What one of these options asks for; the first two name files. Raises InputError, naming option and file."""
    given = {"--json-schema": json_schema, "--grammar": grammar, "--regex": regex}
    options = [option for option, value in given.items() if value is not None]
    if len(options) > 1:
        raise InputError(f"{' and '.join(options)}: an answer can keep to one of them")
    if json_schema is not None:
        text = _read("--json-schema", json_schema)
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--json-schema {json_schema}: no JSON: {one_line(error)}") from error
        return StructuredOutputs(json=text)
    if grammar is not None:
        return StructuredOutputs(grammar=_read("--grammar", grammar))
    return None if regex is None else StructuredOutputs(regex=regex)


def _read(option: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise InputError(f"{option} {path}: has more than {MOST_BYTES} bytes")
        return text.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {path}: {one_line(error)}") from error
