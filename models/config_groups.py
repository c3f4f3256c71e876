"""What compressed-tensors stores a module's weight in, by its `config_groups`."""

from __future__ import annotations

from collections.abc import Callable

from ellm.kernels.formats import FORMATS, FP8_ROWS, Format, integer_format
from ellm.models.fields import Fields
from ellm.models.integers import group_size
from ellm.models.patterns import Test, any_of, named

_MOST_GROUPS = 64
_BITS = range(2, 9)
_OF_INTEGERS = ("pack-quantized", "int-quantized", "naive-quantized")
_OF_FLOATS = ("float-quantized", "naive-quantized")


def compressed_tensors(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """By the first of the groups that a module is a target of, by its name or class, unless it is to `ignore`.

    How activations would be quantised has no effect: they are not.
    """
    for name in ("kv_cache_scheme", "transform_config"):
        quantization.require(name, None, {})
    quantization.object("sparsity_config").require("format", "dense")
    groups = quantization.object("config_groups")
    if not 0 < len(groups.objects()) <= _MOST_GROUPS:
        found = len(groups.objects())
        raise quantization.problem("config_groups", f"has {found} groups, 1 to {_MOST_GROUPS} are plausible")
    schemes = [_scheme(quantization, groups.object(name), number) for name in groups.objects()]
    ignored = any_of(quantization, "ignore", quantization.strings("ignore"), named)

    def of(module: str) -> Format:
        if ignored(module):
            return number
        return next((format for targeted, format in schemes if targeted(module)), number)

    return of


def _scheme(quantization: Fields, group: Fields, number: Format) -> tuple[Test, Format]:
    """Which modules a group is for, and what their weights are stored in."""
    targets = group.strings("targets")
    every = "Linear" in targets
    targeted = any_of(group, "targets", targets, named)
    return lambda module: every or targeted(module), _stored(quantization, group, number)


def _stored(quantization: Fields, group: Fields, number: Format) -> Format:
    layout, weights = group.get("format", quantization.get("format")), group.object("weights")
    kind, strategy = weights.get("type", "int"), weights.get("strategy")
    if kind == "float" and layout in _OF_FLOATS:
        weights.require("num_bits", 8)
        weights.require("strategy", "channel", "tensor", "block")
        if strategy == "block":
            weights.require("block_structure", [*FORMATS["fp8"].scale_block(False)])
            return FORMATS["fp8"]
        return FP8_ROWS if FP8_ROWS.terms == number.terms else number
    if kind != "int" or layout not in _OF_INTEGERS:
        raise quantization.error("format", f"with weights of type {kind!r} is not supported")
    weights.require("strategy", "group", "channel", "tensor")
    bits, size = weights.size("num_bits"), group_size(weights)
    if bits not in _BITS:
        raise weights.error("num_bits", f"is not from {_BITS[0]} to {_BITS[-1]}")
    if weights.get("actorder") == "group":  # groups are scattered: those matrices are not kept as they are stored
        return number
    return integer_format(bits, not weights.flag("symmetric", True), number, size)
