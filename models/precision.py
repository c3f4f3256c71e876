"""What a checkpoint stores a tensor in, as its config says: for compiling without the checkpoint at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

from ellm.dsl import Precision
from ellm.kernels.formats import FORMATS, PLAIN
from ellm.system.errors import InputError

_PLAIN = {"float16": "f16"}
_NEVER_QUANTIZED = ("lm_head", "*embed_tokens", "*norm", "*.mlp.gate")
_EXPERTS = re.compile(r"\.mlp\.experts\.(gate_up|down)_proj$")


def precision_of(config: Mapping[str, Any]) -> Precision:
    """Return the precision of a tensor by its name: the name of one of FORMATS. Raises InputError.

    By `quantization_config` (FP8 in blocks, MXFP4 experts) and `dtype` or, older, `torch_dtype`.
    """
    dtype = config.get("dtype", config.get("torch_dtype"))
    plain = _PLAIN.get(str(dtype), PLAIN.name)
    quantization = config.get("quantization_config")
    if quantization is None:
        return lambda name: plain
    if not isinstance(quantization, Mapping):
        raise InputError(f"config.json: quantization_config: {quantization!r} is not an object")
    method = quantization.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        known = ", ".join(_METHODS)
        raise InputError(
            f"config.json: quantization_config: quant_method {method!r} is not supported, only {known} are"
        )
    return _METHODS[method](quantization, plain)


def _fp8(quantization: Mapping[str, Any], plain: str) -> Precision:
    """Every matrix but the head, the embedding, routers and `modules_to_not_convert`."""
    block, wanted = quantization.get("weight_block_size"), [*FORMATS["fp8"].scale_block(False)]
    if block != wanted:
        raise InputError(f"config.json: quantization_config: weight_block_size {block!r} is not {wanted}")
    modules = quantization.get("modules_to_not_convert") or []
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise InputError(f"config.json: quantization_config: modules_to_not_convert {modules!r} is not a list of names")
    kept = (*_NEVER_QUANTIZED, *modules)

    def precision(name: str) -> str:
        module = name.removesuffix(".weight")
        return plain if module == name or _within(module, kept) else "fp8"

    return precision


def _mxfp4(quantization: Mapping[str, Any], plain: str) -> Precision:
    """The stacked experts alone."""
    return lambda name: "mxfp4" if _EXPERTS.search(name) else plain


def _within(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(module, pattern) or fnmatch(module, f"{pattern}.*") for pattern in patterns)


_METHODS: dict[str, Callable[[Mapping[str, Any], str], Precision]] = {"fp8": _fp8, "mxfp4": _mxfp4}
