"""A line of the input as a request: what to answer, and how to sample it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ellm.batch.document import read_document
from ellm.batch.lines import LONGEST
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError, one_line
from ellm.system.memory import readable

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_BATCH_LINE = ("custom_id", "method", "url", "body")
_SAMPLING = {  # names of requests, and in SamplingParams
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
    "seed": "seed",
    "ignore_eos": "ignore_eos",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields that are taken only with values that ask for nothing
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
_UNREAD = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # they change no answer
_COMMON = ("model", *_SAMPLING, *_NEUTRAL, *_UNREAD)
_DEFAULT_TOKENS = 16  # of a completion that names no max_tokens, as with OpenAI and vLLM


class Refusal(InputError):
    """A request that cannot be answered; `param` is the field, or None. The message names it and its value."""

    def __init__(self, message: object, param: str | None = None):
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Request:
    """`prompt`: a text or token ids to continue, or messages to answer. `sampling`: fields of SamplingParams."""

    custom_id: str | None
    prompt: Any
    chat: bool
    sampling: dict[str, Any]
    template: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """Reads lines: of OpenAI's batch format, or with a "prompt", and perhaps a "document", by itself.

    `models` are the names that lines may give, `folder` is where documents are looked for, `raw` continues such a
    prompt instead of asking it, `defaults` are what the model asks to be sampled with.
    """

    models: tuple[str, ...]
    folder: Path
    raw: bool
    defaults: Mapping[str, Any]

    def read(self, number: int, found: dict[str, Any]) -> Request:
        """The request of a line, by its number and what `parse` makes of it. Raises Refusal."""
        request = self._of_batch(found) if "body" in found or "url" in found else self._plain(found)
        request.sampling.setdefault("seed", number)  # so that an answer never depends on when it is made
        return request

    def _of_batch(self, line: dict[str, Any]) -> Request:
        _known(line, _BATCH_LINE)
        if line.get("method", "POST") != "POST":
            raise _wrong("method", line["method"], "'POST'")
        body, url = line.get("body"), line.get("url")
        if not isinstance(body, dict):
            raise _wrong("body", body, "an object")
        if url not in (CHAT, TEXT):
            raise _wrong("url", url, f"'{CHAT}' or '{TEXT}'")
        self._check_model(body.get("model"))
        if url == CHAT:
            _known(body, ("messages", "chat_template_kwargs", *_COMMON))
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise _wrong("messages", messages, "a list of messages")
            variables = body.get("chat_template_kwargs") or {}
            if not isinstance(variables, dict):
                raise _wrong("chat_template_kwargs", variables, "an object")
            sampling, template = self._sampling(body, {}), {"chat_template_kwargs": variables}
            return Request(_custom_id(line), messages, True, sampling, template)
        _known(body, ("prompt", *_COMMON))
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        if not isinstance(prompt, str) and not (prompt and isinstance(prompt, list) and _are_ids(prompt)):
            raise _wrong("prompt", prompt, "a text or a list of token ids")
        return Request(_custom_id(line), prompt, False, self._sampling(body, {"max_tokens": _DEFAULT_TOKENS}))

    def _plain(self, line: dict[str, Any]) -> Request:
        _known(line, ("custom_id", "prompt", "document", *_COMMON))
        self._check_model(line.get("model"))
        prompt, document = line.get("prompt"), line.get("document")
        if not isinstance(prompt, str) or not (prompt.strip() or document):
            raise _wrong("prompt", prompt, "a text")
        if document is not None:
            prompt = f"{self._document(document)}\n\n{prompt}"
        sampling = self._sampling(line, {"temperature": 0.0})
        if self.raw:
            return Request(_custom_id(line), prompt, False, sampling)
        return Request(_custom_id(line), [{"role": "user", "content": prompt}], True, sampling)

    def _document(self, path: Any) -> str:
        if not isinstance(path, str) or not path:
            raise _wrong("document", path, "the path of a file")
        try:
            return read_document(self.folder / path)
        except InputError as error:
            raise Refusal(f"document {path!r}: {error}", "document") from error

    def _check_model(self, name: Any) -> None:
        if name is not None and name not in self.models:
            raise _wrong("model", name, f"the one of this batch, {self.models[0]!r}")

    def _sampling(self, body: Mapping[str, Any], else_: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of SamplingParams: those of the request, else the model's, else what this kind of request has."""
        for name, values in _NEUTRAL.items():
            if body.get(name) is not None and body[name] not in values:
                raise _wrong(name, body[name], f"{values[0]!r}, or left out: ellm batch has nothing else")
        given: dict[str, Any] = {}
        for name, field_name in _SAMPLING.items():
            value = body.get(name)
            if value is None:
                continue
            try:
                SamplingParams(**{field_name: value})
            except InputError as error:
                raise Refusal(str(error).replace(field_name, name, 1), name) from error
            if given.get(field_name, value) != value:
                raise _wrong(name, value, f"max_tokens, which is {given[field_name]}")
            given[field_name] = value
        return {"max_tokens": None, **else_, **self.defaults, **given}


def parse(line: bytes | None) -> dict[str, Any]:
    """The object that a line holds; null is as if it were not there. Raises Refusal."""
    if line is None:
        raise Refusal(f"the line is longer than {readable(LONGEST)}")
    try:
        found = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Refusal(f"the line is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the line is not JSON: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise Refusal(f"the line must be an object, not {_shown(found)}")
    return {name: value for name, value in found.items() if value is not None}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _known(found: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name, value in found.items():
        if name not in names and value is not None:
            raise Refusal(f"{one_line(name, 60)} is {_shown(value)}: ellm batch has no such field", name)


def _custom_id(line: Mapping[str, Any]) -> str | None:
    name = line.get("custom_id")
    if name is not None and not isinstance(name, str):
        raise _wrong("custom_id", name, "a text")
    return name


def _are_ids(prompt: list[Any]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in prompt)


def _wrong(name: str, value: Any, wanted: str) -> Refusal:
    return Refusal(f"{name} must be {wanted}, not {_shown(value)}", name)


def _shown(value: Any) -> str:
    return one_line(repr(value), 100)
