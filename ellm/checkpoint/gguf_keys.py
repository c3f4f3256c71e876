"""Metadata keys of GGUF files that ellm does not read: whether they would change what the model computes.

The keys that llama.cpp knows are those of gguf.Keys. One that nobody has asked for is refused unless its value says
that the model has none of what it stands for; keys that nobody knows are left to `ellm inspect` to list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gguf import GGML_QUANT_VERSION, Keys

from ellm.checkpoint.gguf_families import Family
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.tensors import NUMBERS
from ellm.system.errors import InputError

_ELSEWHERE = ("general.", "tokenizer.", "split.", "quantize.", "imatrix.")  # of no matter, or read by others
_NO_MATTER = {  # of an architecture: what is said by the tensors, or about other inputs than text
    "vocab_size",
    "features_length",
    "attention.layer_norm_epsilon",  # of a LayerNorm: those of ellm's families are RMS norms
    "rope.dimension_sections",  # a text has one position in all of them
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",  # read where the kind of scaling depends on it, as the next two
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "decoder_start_token_id",
}
_ABSENT = (0, False)  # 0 or false of anything: the model has none of it
_FACTOR = (0, 1)  # 0: not set
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.output_scale": _FACTOR,
    "attention.value_scale": _FACTOR,
    "embedding_scale": _FACTOR,
    "hidden_activation": ("silu", "swish"),
    "logit_scale": _FACTOR,
    "residual_scale": _FACTOR,
    "rope.scaling.alpha": _FACTOR,
    "rope.scaling.yarn_attn_factor": _FACTOR,
    "rope.scaling.yarn_ext_factor": (1, -1),
    "tensor_data_layout": ("reference", "Meta AI original pth"),
}
_PREFIX = "{arch}."


def _known(group: type) -> Iterator[str]:
    """What follows the architecture in each of the package's keys that begin with it."""
    for value in vars(group).values():
        if isinstance(value, type):
            yield from _known(value)
        elif isinstance(value, str) and value.startswith(_PREFIX):
            yield value.removeprefix(_PREFIX)


_KNOWN = frozenset(_known(Keys))


def unknown_keys(file: GGUFFile, family: Family) -> list[str]:
    """Keys that nobody has asked for and that neither ellm nor the gguf package knows.

    Raises InputError if there is one among the known that asks for what ellm does not compute.
    """
    _check_quantisation(file)
    prefix = f"{file.field('general.architecture', str)}."
    unknown = []
    for key in file.metadata.keys() - file.asked:
        name = key.removeprefix(prefix)
        if key.startswith(_ELSEWHERE) or (key != name and name in _NO_MATTER):
            continue
        neutral = family.neutral.get(name) or _NEUTRAL.get(name) or (_ABSENT if name in _KNOWN else None)
        if key == name or neutral is None:
            unknown.append(key)
        else:
            _check_neutral(file, key, neutral, prefix.removesuffix("."))
    return sorted(unknown)


def _check_neutral(file: GGUFFile, key: str, neutral: tuple[Any, ...], architecture: str) -> None:
    value = file.metadata[key]
    if all(one in neutral for one in (value if isinstance(value, list) else [value])):
        return
    shown = repr(value) if not isinstance(value, list) else f"{value[:4]} and more" if len(value) > 4 else value
    wanted = " or ".join(repr(one) for one in dict.fromkeys(neutral))
    raise InputError(f"{file.path}: {key} is {shown}, ellm computes {architecture} with {wanted} only")


def _check_quantisation(file: GGUFFile) -> None:
    """The blocks of older versions had other scales."""
    version = file.field("general.quantization_version", int, GGML_QUANT_VERSION)
    quantised = next((tensor for tensor in file.tensors.values() if tensor.dtype not in NUMBERS), None)
    if quantised and version != GGML_QUANT_VERSION:
        raise InputError(
            f"{file.path}: general.quantization_version is {version}, ellm reads {GGML_QUANT_VERSION} "
            f"({quantised.name} is {quantised.dtype})"
        )
