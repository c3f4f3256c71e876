"""How a model says that it wants to be sampled, in generation_config.json or in general.sampling of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError, one_line

_DRAWING = {  # what counts when tokens are drawn: its name in the file, and in SamplingParams
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
}
_ALWAYS = {
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "max_tokens",
    "stop_strings": "stop",
    "general.sampling.penalty_repeat": "repeat_penalty",
}
_NOT_DONE: dict[str, tuple[Any, ...]] = {  # what else changes an answer, with the values that do not
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "guidance_scale": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": ([],),
    "forced_decoder_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "token_healing": (False,),
    "watermarking_config": ({},),
    "general.sampling.sequence": ("",),
    "general.sampling.xtc_probability": (0,),
    "general.sampling.mirostat": (0,),
    "general.sampling.penalty_last_n": (-1,),
}
_LIBRARY_LENGTH = 20  # transformers' own max_length, which it writes without meaning it


@dataclass(frozen=True)
class ModelSampling:
    """What a model asks for.

    Attributes:
        fields: of SamplingParams.
        unused: settings for drawing tokens, by their names there, that do not count since `do_sample` is not true.
        not_done: settings that change an answer and that ellm does not have.
    """

    fields: dict[str, Any]
    unused: dict[str, Any]
    not_done: dict[str, Any]


def read_sampling(generation: Mapping[str, Any], path: str, context: int) -> ModelSampling:
    """What `generation`, the content of a file, asks for, for sequences of at most `context` tokens.

    As in transformers, a setting that is null is not there, and tokens are drawn only if `do_sample` is true; a GGUF
    file has no such switch. As in vLLM, what is not there is off: transformers would take the 50 most likely tokens.
    Raises InputError, naming the file and the setting, for a value that makes no sense.
    """
    given = {name: value for name, value in generation.items() if value is not None}
    draws = given.get("do_sample", any(name.startswith("general.sampling.") for name in given))
    if not isinstance(draws, bool):
        raise InputError(f"{path}: do_sample is {one_line(repr(draws), 60)}, must be true or false")
    drawing = {_DRAWING[name]: value for name, value in given.items() if name in _DRAWING}
    always = {_ALWAYS[name]: value for name, value in given.items() if name in _ALWAYS}
    for name, field in (_DRAWING | _ALWAYS).items():
        if name in given:
            _check(path, name, field, given[name])
    if draws:
        drawing.setdefault("temperature", 1.0)
    neutral = SamplingParams()
    return ModelSampling(
        fields=always | (drawing if draws else {"temperature": 0.0} if drawing or "do_sample" in given else {}),
        unused={} if draws else {name: value for name, value in drawing.items() if value != getattr(neutral, name)},
        not_done=_not_done(given, context),
    )


def _check(path: str, name: str, field: str, value: Any) -> None:
    try:
        SamplingParams(**{field: value})
    except InputError as error:
        raise InputError(f"{path}: {name} is {one_line(repr(value), 60)}: {error}") from error


def _not_done(given: Mapping[str, Any], context: int) -> dict[str, Any]:
    found = {name: given[name] for name, neutral in _NOT_DONE.items() if name in given and given[name] not in neutral}
    if given.get("general.sampling.penalty_repeat", 1) == 1:
        found.pop("general.sampling.penalty_last_n", None)
    longest = given.get("max_length", context)
    if not isinstance(longest, int) or (longest < context and longest != _LIBRARY_LENGTH):
        found["max_length"] = longest
    return found
