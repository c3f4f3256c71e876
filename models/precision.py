"""What a checkpoint stores a tensor in, as its config says: for compiling without the checkpoint at hand.

Where there are weights, these say which of them are quantised and how (ellm/checkpoint/partners.py), and what counts
here is what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from ellm.dsl import Precision
from ellm.kernels.formats import FORMATS, FP8_ROWS, Format, unquantized
from ellm.models.config_groups import compressed_tensors
from ellm.models.fields import Fields
from ellm.models.integers import auto_round, awq, gptq
from ellm.models.patterns import any_of, within

_ELSEWHERE = ("quantization", "compression_config")
"""Where MLX and older versions of compressed-tensors say what is not read here."""
_NEVER_QUANTIZED = re.compile(r"(^|\.)(\w*embed_tokens|\w*norm|eh_proj|mlp\.gate|mlp\.router|block_sparse_moe\.gate)$")
_EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up|down)_proj$")


def precision_of(fields: Fields) -> Precision:
    """Return the precision of a tensor by its name: the name of one of FORMATS. Raises InputError.

    By `quantization_config` and `dtype` or, older, `torch_dtype`. What it returns raises InputError too, where it needs
    a pattern that cannot be used.
    """
    older = fields.get("torch_dtype")
    number = unquantized(fields.get("dtype", older))
    for name in _ELSEWHERE:
        if fields.get(name):
            raise fields.error(name, "is not supported, only quantization_config is")
    if not fields.get("quantization_config", {}):
        return lambda name: number.name
    quantization = fields.object("quantization_config")
    method = quantization.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise quantization.error("quant_method", f"is not supported, only {', '.join(METHODS)} are")
    of = METHODS[method](quantization, number)

    @cache
    def precision(name: str) -> str:
        module = name.removesuffix(".weight").replace("{expert}", "0")
        return number.name if _NEVER_QUANTIZED.search(module) else of(module).name

    return precision


def _fp8(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """Every matrix but the head and those that are named.

    How activations would be quantised has no effect: they are not.
    """
    quantization.require("fmt", "e4m3")
    quantization.get("activation_scheme")
    wanted = [*FORMATS["fp8"].scale_block(False)]
    size = quantization.get("weight_block_size")
    if size not in (wanted, None):
        raise quantization.error("weight_block_size", f"is not {wanted}, nor null: one for a row or all")
    fields = ("modules_to_not_convert", "ignored_layers")
    kept = [any_of(quantization, field, quantization.strings(field), within) for field in fields]
    rows = FP8_ROWS if FP8_ROWS.terms == number.terms else number
    found = FORMATS["fp8"] if size else rows
    return lambda module: number if module == "lm_head" or any(one(module) for one in kept) else found


def _mxfp4(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """The stacked experts alone, whatever else `modules_to_not_convert` names."""
    quantization.get("modules_to_not_convert")
    return lambda module: FORMATS["mxfp4"] if _EXPERTS.search(module) else number


METHODS: dict[str, Callable[[Fields, Format], Callable[[str], Format]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "compressed-tensors": compressed_tensors,
    "awq": awq,
    "gptq": gptq,
    "auto-round": auto_round,
    "intel/auto-round": auto_round,
}
"""By `quant_method`."""
