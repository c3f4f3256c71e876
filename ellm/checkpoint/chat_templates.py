"""The chat templates of a checkpoint by name, from wherever a folder or a GGUF file keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ellm.checkpoint.gguf_metadata import Metadata
from ellm.checkpoint.json_file import check_file, read_json_if_any
from ellm.system.errors import InputError, one_line

_MOST = 100  # templates of one checkpoint


def read_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The templates of a folder; `settings` is tokenizer_config.json.

    From chat_template.jinja, else chat_template.json, else tokenizer_config.json: a text, named ones as an object, or a
    list of objects with `name` and `template`. additional_chat_templates/NAME.jinja go before others of their names.
    Raises InputError if one cannot be read.
    """
    path = folder / "chat_template.jinja"
    if path.exists():
        found = {"default": _read(path)}
    else:
        other = folder / "chat_template.json"
        value = read_json_if_any(other).get("chat_template")
        config = folder / "tokenizer_config.json"
        found = _named(settings.get("chat_template"), config) if value is None else _named(value, other)
    additional = sorted((folder / "additional_chat_templates").glob("*.jinja"))[:_MOST]
    return found | {path.stem: _read(path) for path in additional}


def _read(path: Path) -> str:
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error


def _named(value: Any, path: Path) -> dict[str, str]:
    if not value:
        return {}
    if isinstance(value, str):
        return {"default": value}
    pairs = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value]
    named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    if len(named) != len(pairs) or not pairs:
        raise InputError(f"{path}: chat_template is {one_line(repr(value))}, must be a text or named templates")
    return named


def gguf_templates(file: Metadata) -> dict[str, str]:
    """The templates of a GGUF file: tokenizer.chat_template and those that tokenizer.chat_templates names."""
    names = file.field("tokenizer.chat_templates", list, [])
    prefix = "tokenizer.chat_template."
    stored = [key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix)]
    found = {"default": file.field("tokenizer.chat_template", str, "")}
    for name in dict.fromkeys([*names, *stored]):
        if not isinstance(name, str):
            raise InputError(f"{file.path}: tokenizer.chat_templates must be an array of strings")
        found[name] = file.field(prefix + name, str)
    return {name: text for name, text in found.items() if text}
