"""The checkpoint tensors that packed weights are made of: their names, and whether a checkpoint fits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ellm.checkpoint.tensors import NUMBERS, TensorInfo, readable
from ellm.kernels.formats import FORMATS, MADE, expanded
from ellm.scheduler.contents import NamedTensor, Source, WeightEntry
from ellm.system.errors import InputError

if TYPE_CHECKING:
    from ellm.checkpoint.checkpoint import Checkpoint


def tensor_name(source: Source | NamedTensor, matrix: int) -> str:
    """The tensor that holds one matrix of a bank."""
    return source.name.replace("{expert}", str(matrix))


def used_tensors(weights: Sequence[WeightEntry]) -> set[str]:
    """Names of all tensors that these weights are made of."""
    used: set[str] = set()
    for weight in weights:
        for source in weight.sources:
            for part in (source, source.scales):
                if part:
                    used.update(_names(part, weight.experts))
    return used


def check_tensors(weights: Sequence[WeightEntry], checkpoint: Checkpoint) -> None:
    """Raise InputError unless the checkpoint has every source of these weights, in its shape and a fitting dtype."""
    for weight in weights:
        for source in weight.sources:
            _check_experts(weight, source, checkpoint)
            for matrix, name in enumerate(_names(source, weight.experts)):
                tensor = _find(checkpoint, name, source.shape, source.line)
                _check_dtype(weight, source, tensor)
                if source.scales and tensor.format.stored.scales:
                    scales = _find(checkpoint, tensor_name(source.scales, matrix), source.scales.shape, source.line)
                    _refuse_dtype(scales, tensor.format.stored.scale_dtypes, f"scales of {tensor.dtype} are")


def _names(source: Source | NamedTensor, experts: int) -> list[str]:
    if "{expert}" not in source.name:
        return [source.name]
    return [tensor_name(source, matrix) for matrix in range(experts)]


def _check_experts(weight: WeightEntry, source: Source, checkpoint: Checkpoint) -> None:
    """The checkpoint has as many experts as the bank, whose tensors are named one by one."""
    if "{expert}" not in source.name:
        return
    names = _names(source, weight.experts)
    missing = next((name for name in names if name not in checkpoint.tensors), None)
    if missing is not None:
        found = sum(name in checkpoint.tensors for name in names)
        raise InputError(
            f"{checkpoint.source}: tensor {missing} is missing: it has {found} of the {weight.experts} experts that "
            f"the configuration needs"
        )
    surplus = tensor_name(source, weight.experts)
    if surplus in checkpoint.tensors:
        raise InputError(
            f"{checkpoint.source}: has tensor {surplus}, the configuration has {weight.experts} experts only"
        )


def _find(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], line: str) -> TensorInfo:
    tensor = checkpoint.tensors.get(name)
    if tensor is None:
        raise InputError(f"{checkpoint.source}: tensor {name} is missing")
    if tuple(tensor.shape) != shape:
        found, at = list(tensor.shape), f", at {line}" if line else ""
        raise InputError(f"{tensor.path}: {tensor}: shape is {found}, the configuration needs {list(shape)}{at}")
    return tensor


def _check_dtype(weight: WeightEntry, source: Source, tensor: TensorInfo) -> None:
    if weight.layout == "vector":
        return _refuse_dtype(tensor, NUMBERS, "ellm reads vectors as")
    if not tensor.joined:
        _refuse_dtype(tensor, readable(), "ellm reads")
    wanted, format = FORMATS[weight.packed.numbers], tensor.format
    if format is wanted:
        return
    converted, whole = source.format != wanted.name, wanted is expanded(format)
    if converted and wanted not in MADE and not whole:
        known = ", ".join(one.name for one in MADE)
        raise InputError(
            f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, ellm makes {known} of it, not {wanted.name}"
        )
    scaled = not format.stored.scales or source.scales
    if not scaled or not (converted or (whole and format.k_per_scale)):
        raise InputError(
            f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, the program was compiled for {source.format}"
        )


def _refuse_dtype(tensor: TensorInfo, known: Sequence[str], words: str) -> None:
    if tensor.dtype not in known:
        raise InputError(f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, {words} {', '.join(known)}")
