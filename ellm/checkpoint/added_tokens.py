"""The tokens that the files beside a tokenizer add to it, and the roles of some: `bos_token`, `eos_token`, ...

The rules are those of transformers 5 (tokenization_utils_base.py, `_from_pretrained`; tokenization_utils_tokenizers.py,
`TokenizersBackend.__init__`): what tokenizer_config.json says of a token replaces what tokenizer.json says, and a token
that is nowhere gets the next id. But one that is declared with an id has that or is refused: transformers gives it the
next one, whose row in the model is of another token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ellm.checkpoint.json_file import read_json_if_any
from ellm.system.errors import InputError, one_line

_MOST = 1 << 18
_MOST_RESERVED = 1 << 12
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def add_tokens(backend: Tokenizer, folder: Path, settings: Mapping[str, Any], vocab_size: int | None) -> dict[str, str]:
    """Add the tokens of a folder's files to a backend; the roles that tokens have, by their texts.

    Args:
        backend: with the tokens that its own file adds.
        folder: of added_tokens.json and special_tokens_map.json, which count if `settings` has no added_tokens_decoder.
        settings: tokenizer_config.json.
        vocab_size: ids that the model has, if that is known.

    Raises:
        InputError: a token is malformed, cannot get the id that it is declared with, or is beyond `vocab_size` though
            it is bos_token or eos_token.
    """
    file, declared, roles, extra = _read(backend, folder, settings)
    by_text = {token.content: token for token in declared.values()}
    roles = {role: by_text.get(token.content, token) for role, token in roles.items()}
    named = {token.content for token in roles.values()}
    missing = {number for number, token in declared.items() if backend.token_to_id(token.content) is None}
    tokens = {token.content: token for token in _in_order(backend, declared, missing)}
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for text, token in {**{token.content: token for token in roles.values()}, **extra}.items():
        if text not in known:
            tokens.setdefault(text, token)
    backend.add_tokens([_flagged(token, named) for token in tokens.values()])
    for number in missing:
        text = declared[number].content
        if (found := backend.token_to_id(text)) != number:
            raise InputError(f"{file}: {text!r} is token {number}, the next one after the vocabulary is {found}")
    texts = {role: token.content for role, token in roles.items()}
    for role in ("bos_token", "eos_token"):
        if role in texts and vocab_size is not None and (backend.token_to_id(texts[role]) or 0) >= vocab_size:
            raise InputError(f"{folder}: {role} is {texts[role]!r}, which is not in the vocabulary")
    return texts


def _read(
    backend: Tokenizer, folder: Path, settings: Mapping[str, Any]
) -> tuple[Path, dict[int, AddedToken], dict[str, AddedToken], dict[str, AddedToken]]:
    """The file that declares tokens with their ids, these by id, those that have roles, and other special ones."""
    file = folder / "tokenizer_config.json"
    roles, extra = _roles(file, settings), _extra(file, settings)
    if "added_tokens_decoder" in settings:
        return file, declared_tokens(file, settings["added_tokens_decoder"]), roles, extra
    file = folder / "special_tokens_map.json"
    beside = read_json_if_any(file)
    roles |= _roles(file, beside, special=True)
    extra |= _extra(file, beside)
    file = folder / "added_tokens.json"
    special = {token.content for token in roles.values()} | extra.keys()
    return file, _legacy(file, special) | backend.get_added_tokens_decoder(), roles, extra


def _in_order(backend: Tokenizer, declared: dict[int, AddedToken], missing: set[int]) -> list[AddedToken]:
    """Tokens by id. What has no name between the vocabulary and a new one is reserved, so that this gets its id."""
    tokens = []
    following = backend.get_vocab_size(with_added_tokens=True)
    for number in sorted(declared):
        if number in missing and 0 <= number - following <= _MOST_RESERVED:
            tokens += [AddedToken(f"<|reserved_token_{i}|>", special=True) for i in range(following, number)]
            following = number + 1
        tokens.append(declared[number])
    return tokens


def _flagged(token: AddedToken, named: set[str]) -> AddedToken:
    """A token with a role is special whatever else is said of it."""
    if token.special or token.content not in named:
        return token
    flags = {name: getattr(token, name) for name in _FLAGS}
    return AddedToken(token.content, **flags | {"special": True})


def _roles(file: Path, settings: Mapping[str, Any], special: bool = False) -> dict[str, AddedToken]:
    """Tokens under the names of roles, the known ones first, and under names of the model's own; `special` if told."""
    own = [key for key in settings if key.endswith("_token") and key not in _ROLES]
    values = {key: settings[key] for key in (*_ROLES, *own) if isinstance(settings.get(key), str | dict)}
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, dict):
        values |= extra
    return {key: _token(file, key, value, special) for key, value in values.items() if value}


def _extra(file: Path, settings: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Special tokens without a role."""
    key = "extra_special_tokens"
    if not settings.get(key) or isinstance(settings[key], dict):  # an object is of roles
        key = "additional_special_tokens"
    values = settings.get(key) or []
    if not isinstance(values, list) or len(values) > _MOST:
        raise InputError(f"{file}: {key} must be a list of at most {_MOST} tokens")
    tokens = [_token(file, key, value) for value in values]
    return {token.content: token for token in tokens}


def declared_tokens(file: Path, entries: Any) -> dict[int, AddedToken]:
    """The tokens of an added_tokens_decoder by id. Raises InputError, naming `file`, if one is malformed."""
    if not isinstance(entries, dict) or len(entries) > _MOST:
        raise InputError(f"{file}: added_tokens_decoder must be an object of at most {_MOST} tokens")
    return {_number(file, key): _token(file, f"added_tokens_decoder[{key}]", entries[key]) for key in entries}


def _legacy(file: Path, special: set[str]) -> dict[int, AddedToken]:
    """added_tokens.json: texts and ids; what has a role, or is among the special ones, is special."""
    entries = read_json_if_any(file)
    if len(entries) > _MOST:
        raise InputError(f"{file}: has {len(entries)} tokens, at most {_MOST} are plausible")
    return {_number(file, entries[text]): AddedToken(text, special=text in special) for text in entries}


def _number(file: Path, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: the id of an added token is {one_line(repr(value))}, must be a number") from error
    if not 0 <= number < 1 << 31:
        raise InputError(f"{file}: the id of an added token is {number}, which no token can have")
    return number


def _token(file: Path, key: str, value: Any, special: bool = False) -> AddedToken:
    """A token is written as its text, and is then special, or as an object with `content` and flags."""
    text, flags = value, {"special": True}
    if isinstance(value, dict):
        text = value.get("content")
        flags = {name: value[name] for name in _FLAGS if isinstance(value.get(name), bool)}
        flags |= {"special": True} if special else {}
    try:
        if isinstance(text, str):
            return AddedToken(text, **flags)
    except ValueError:  # half a surrogate pair
        pass
    raise InputError(f"{file}: {key} is {one_line(repr(value))}, must be a text or an object with content")
