"""What a checkpoint stores a tensor in, as its config says: for compiling without the checkpoint at hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatch

from ellm.dsl import Precision
from ellm.kernels.formats import FORMATS, PLAIN
from ellm.models.fields import Fields

_PLAIN = {"float16": "f16", "half": "f16"}
_ELSEWHERE = ("quantization", "compression_config")
"""Where MLX and older versions of compressed-tensors say what is not read here."""
_NEVER_QUANTIZED = ("lm_head", "*embed_tokens", "*norm", "*.mlp.gate")
_EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up|down)_proj$")


def precision_of(fields: Fields) -> Precision:
    """Return the precision of a tensor by its name: the name of one of FORMATS. Raises InputError.

    By `quantization_config` (FP8 in blocks, MXFP4 experts) and `dtype` or, older, `torch_dtype`.
    """
    older = fields.get("torch_dtype")
    plain = _PLAIN.get(str(fields.get("dtype", older)).removeprefix("torch."), PLAIN.name)
    for name in _ELSEWHERE:
        if fields.get(name):
            raise fields.error(name, "is not supported, only quantization_config is")
    if not fields.get("quantization_config", {}):
        return lambda name: plain
    quantization = fields.object("quantization_config")
    method = quantization.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise quantization.error("quant_method", f"is not supported, only {', '.join(METHODS)} are")
    return METHODS[method](quantization, plain)


def _fp8(quantization: Fields, plain: str) -> Precision:
    """Every matrix but the head, the embedding, routers and `modules_to_not_convert`.

    How activations would be quantised has no effect: they are not.
    """
    quantization.require("fmt", "e4m3")
    quantization.get("activation_scheme")
    wanted = [*FORMATS["fp8"].scale_block(False)]
    if quantization.get("weight_block_size") != wanted:
        raise quantization.error("weight_block_size", f"is not {wanted}")
    modules = quantization.get("modules_to_not_convert", [])
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise quantization.error("modules_to_not_convert", "is not a list of names")
    kept = (*_NEVER_QUANTIZED, *modules)

    def precision(name: str) -> str:
        module = name.removesuffix(".weight")
        return plain if module == name or _within(module, kept) else "fp8"

    return precision


def _mxfp4(quantization: Fields, plain: str) -> Precision:
    """The stacked experts alone, whatever else `modules_to_not_convert` names."""
    quantization.get("modules_to_not_convert")
    return lambda name: "mxfp4" if _EXPERTS.search(name) else plain


def _within(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(module, pattern) or fnmatch(module, f"{pattern}.*") for pattern in patterns)


METHODS: dict[str, Callable[[Fields, str], Precision]] = {"fp8": _fp8, "mxfp4": _mxfp4}
"""By `quant_method`."""
