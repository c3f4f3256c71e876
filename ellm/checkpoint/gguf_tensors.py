"""The tensors of a GGUF file under the names of Hugging Face: stacks of experts apart, absent biases as zeros."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ellm.checkpoint.gguf_families import MODEL_MODULES, Family
from ellm.checkpoint.gguf_file import GGUFFile, GGUFTensor
from ellm.checkpoint.gguf_latent import BY_HEADS
from ellm.checkpoint.gguf_rope import ROPE_TENSORS
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError

_NAME = re.compile(r"(?:blk\.(?P<layer>\d{1,5})\.)?(?P<stem>(?:nextn\.)?\w+?)(?:\.(?P<expert>\d{1,5}))?\.(?P<kind>\w+)")
_FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_gate_up_exps": ("ffn_gate_exps", "ffn_up_exps")}
_SCALES = ("scale", "input_scale")
_HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_ZEROS = Path("/dev/zero")  # what a bias that a file lacks is read from


@dataclass(frozen=True)
class _Place:
    """What a stored tensor belongs to: `module` is that of a layer, or of the model if `layer` is empty.

    Its kind is weight, bias, scale (of an NVFP4 weight), input_scale (of what it is multiplied with), or "" for a
    parameter that is no module, whose name `module` is.
    """

    layer: str
    stem: str
    module: str
    kind: str

    @property
    def name(self) -> str:
        """Hugging Face's."""
        name = f"model.layers.{int(self.layer)}.{self.module}" if self.layer else self.module
        return f"{name}.{self.kind}" if self.kind else name


def biased_modules(file: GGUFFile, family: Family) -> set[str]:
    """Modules of a layer that have a bias in any layer."""
    places = (_place(name, family) for stored in file.tensors for name in _part_names(stored, family))
    return {place.module for place in places if place and place.layer and place.kind == "bias"}


def with_biases(file: GGUFFile, family: Family, biased: Set[str]) -> Family:
    """What computes a family's file with these biases. Raises InputError if nothing does."""
    for one in (family, family.otherwise):
        if one and biased <= one.may_be_biased:
            return one
    module = min(biased - family.may_be_biased)
    raise InputError(f"{file.path}: {module} has a bias, which ellm does not have in {family.architecture}")


def read_tensors(file: GGUFFile, family: Family, config: dict[str, Any]) -> dict[str, TensorInfo]:
    """Tensors by their Hugging Face names; those that the family does not have keep their own, for a note on them.

    Raises InputError if one does not fit the configuration.
    """
    found = {}
    for stored, tensor in file.tensors.items():
        for number, name in enumerate(_part_names(stored, family)):
            place = _place(name, family)
            if place is None:
                if stored not in ROPE_TENSORS:  # the configuration has their numbers
                    found[stored] = _info(tensor, stored)
            elif place.kind not in _SCALES:
                for whole in _read(file, family, config, tensor, place):
                    found[whole.name] = whole if name == stored else _cut(whole, stored, number, config)
                if family.interleaved and place.stem in _HEADS:
                    found[place.name] = _interleaved(found[place.name], config[_HEADS[place.stem]])
    switched = [modules for switch, modules in family.switches.items() if config[switch]]
    return found | _absent_biases(found, family.biased.union(*switched))


def _part_names(stored: str, family: Family) -> list[str]:
    """The names that the parts of a tensor have where each is stored by itself; its own if it has none."""
    fused = next((stem for stem in _FUSED if f".{stem}." in stored), None)
    if fused and not family.modules.keys() >= set(_FUSED[fused]):
        return [stored]
    return [stored.replace(fused, part) for part in _FUSED[fused]] if fused else [stored]


def _cut(whole: TensorInfo, stored: str, number: int, config: dict[str, Any]) -> TensorInfo:
    """The rows of one part of a matrix or vector that several are stored in, one behind the other."""
    rows = whole.shape[0]
    sizes = [rows // 2] * 2
    if ".attn_qkv." in stored:
        heads, kv_heads = (config[name] * config["head_dim"] for name in _HEADS.values())
        sizes = [heads, kv_heads, kv_heads]
    if sum(sizes) != rows:
        raise InputError(f"{whole.path}: tensor {stored} has {rows} rows, must have {' + '.join(map(str, sizes))}")
    offset = whole.offset + sum(sizes[:number]) * whole.row_bytes
    return replace(whole, shape=(sizes[number], *whole.shape[1:]), offset=offset)


def _interleaved(tensor: TensorInfo, heads: int) -> TensorInfo:
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise InputError(
            f"{tensor.path}: tensor {tensor.stored} has {rows} rows, must be a multiple of 2 x {heads} heads"
        )
    return replace(tensor, interleaved_heads=heads)


def _place(stored: str, family: Family) -> _Place | None:
    match = _NAME.fullmatch(stored)
    if not match:
        return None
    layer, stem, expert, kind = match["layer"] or "", match["stem"], match["expert"], match["kind"]
    modules = family.modules if layer else MODEL_MODULES
    if f"{stem}.{kind}" in modules:
        return _Place(layer, stem, modules[f"{stem}.{kind}"], "")
    module = modules.get(f"{stem}_exps" if expert else stem)
    if module is None or kind not in ("weight", "bias", *_SCALES):
        return None
    return _Place(layer, stem, module.replace("{expert}", str(int(expert))) if expert else module, kind)


def _read(
    file: GGUFFile, family: Family, config: dict[str, Any], tensor: GGUFTensor, place: _Place
) -> Iterator[TensorInfo]:
    name = place.name
    if place.kind == "bias" and not (place.layer and place.module in family.may_be_biased):
        raise InputError(f"{tensor.path}: tensor {tensor.name} is a bias, which {family.architecture} does not have")
    if place.stem in BY_HEADS and len(tensor.shape) == 3:
        heads, rows, columns = tensor.shape
        tensor = replace(tensor, shape=(heads * rows, columns))
    if "{expert}" not in name:  # one tensor; in old files each expert has its own
        yield _info(tensor, name, _scales(file, tensor, 1)[0])
        return
    experts = config[family.experts]
    if tensor.shape[0] != experts or len(tensor.shape) < 2:
        raise InputError(f"{tensor.path}: tensor {tensor.name} is {list(tensor.shape)}, must be of {experts} experts")
    size = tensor.bytes // experts
    for expert, scale in enumerate(_scales(file, tensor, experts)):
        offset = tensor.offset + expert * size
        matrix = replace(tensor, shape=tensor.shape[1:], offset=offset, bytes=size)
        yield _info(matrix, name.replace("{expert}", str(expert)), scale)


def _scales(file: GGUFFile, tensor: GGUFTensor, count: int) -> list[float]:
    """What the numbers of a weight, or of each expert's, are to be multiplied with."""
    stem, _, kind = tensor.name.rpartition(".")
    scale = file.tensors.get(f"{stem}.scale") if kind == "weight" else None
    if scale is None:
        return [1.0] * count
    if scale.dtype != "F32" or scale.shape != (count,):
        raise InputError(f"{scale.path}: {scale.name} is {scale.dtype} {list(scale.shape)}, must be F32 [{count}]")
    return np.fromfile(scale.path, "<f4", count, offset=scale.offset).tolist()


def _absent_biases(found: dict[str, TensorInfo], biased: Set[str]) -> dict[str, TensorInfo]:
    """Zeros for biases that a file has of some of these modules only."""
    zeros = {}
    for name, weight in found.items():
        module, _, kind = name.rpartition(".")
        bias = f"{module}.bias"
        if kind == "weight" and bias not in found and module.split(".", 3)[-1] in biased:
            zeros[bias] = TensorInfo(bias, bias, weight.shape[:1], "F32", _ZEROS, 0, 4, in_gguf=True)
    return zeros


def _info(tensor: GGUFTensor, name: str, scale: float = 1.0) -> TensorInfo:
    return TensorInfo(
        name,
        tensor.name,
        tensor.shape,
        tensor.dtype,
        tensor.path,
        tensor.offset,
        tensor.row_bytes,
        in_gguf=True,
        scale=scale,
    )
