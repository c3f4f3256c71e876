"""Sampling by options, else as the model asks for, which is said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ellm.cli.terminal import note
from ellm.llm import LLM
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import one_line

_DEFAULTS: dict[str, Any] = {"temperature": 0.0, "max_tokens": None}
_NEUTRAL = SamplingParams(temperature=0, max_tokens=None)
_DRAWING = ("temperature", "top_p", "top_k", "min_p")


def choose(llm: LLM, given: dict[str, Any]) -> SamplingParams:
    """The parameters of a request: `given` by options, else by the model, else greedy. Notes what the model adds."""
    own, file = llm.runtime.sampling, Path(llm.runtime.checkpoint.generation_file).name
    params = SamplingParams(**_DEFAULTS | own.fields | given)
    added = [name for name in own.fields if name not in given and own.fields[name] != getattr(_NEUTRAL, name)]
    if params.temperature == 0:
        added = [name for name in added if name not in _DRAWING]
    if said := _settings({name: own.fields[name] for name in sorted(added, key=[*vars(params)].index)}):
        note(f"sampling: {said} ({file})")
    if unused := _settings({name: value for name, value in own.unused.items() if name not in given}):
        note(f"sampling: without {unused}, as do_sample is not true ({file})")
    if params.temperature == 0 and (idle := _settings({name: given[name] for name in _DRAWING[1:] if name in given})):
        note(f"sampling: at temperature 0, {idle} changes nothing")
    if own.not_done:
        note(f"sampling: ellm does not do {_settings(own.not_done)} ({file})")
    return params


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{_option(name)} {_shown(value)}" for name, value in settings.items())


def _option(name: str) -> str:
    return name.replace("_", "-") if hasattr(_NEUTRAL, name) else name


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else one_line(repr(value), 60)
