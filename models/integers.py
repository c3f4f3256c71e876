"""What AWQ, GPTQ and AutoRound store a module's weight in. Their zeros are stored whatever `sym` says."""

from __future__ import annotations

import re
from collections.abc import Callable

from ellm.kernels.formats import Format, integer_format
from ellm.models.fields import Fields
from ellm.models.patterns import Test, any_of, begins, within

_BITS = (2, 3, 4, 8)
_PLAIN_BITS = 16  # of modules that are left as they are
_LEFT_OUT, _TAKEN = "-:", "+:"


def awq(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """Every matrix but the head and `modules_to_not_convert`."""
    quantization.require("bits", 4)
    quantization.require("zero_point", True)
    if str(quantization.get("version", "gemm")).lower() != "gemm":
        raise quantization.error("version", "is not supported, only gemm is")
    field = "modules_to_not_convert"
    kept = any_of(quantization, field, quantization.strings(field), within)
    format = integer_format(4, True, number, group_size(quantization))
    return lambda module: number if module == "lm_head" or kept(module) else format


def gptq(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """Every matrix, the head only if `lm_head` says so.

    `dynamic` has other numbers for modules by patterns; those that begin with "-:" leave them out. `desc_act` scatters
    groups: such matrices are not kept as they are stored.
    """
    head, scattered = quantization.flag("lm_head"), quantization.flag("desc_act")
    usual = number if scattered else _scheme(quantization, number)
    dynamic = quantization.object("dynamic")
    others: list[tuple[Test, Format]] = []
    for name in dynamic.objects():
        left_out = name.startswith(_LEFT_OUT)
        scheme = number if left_out or scattered else _over(quantization, dynamic.object(name), number)
        pattern = name.removeprefix(_LEFT_OUT).removeprefix(_TAKEN)
        others.append((any_of(quantization, "dynamic", [pattern], begins), scheme))

    def of(module: str) -> Format:
        found = next((scheme for meant, scheme in others if meant(module)), usual)
        return number if module == "lm_head" and not head else found

    return of


def auto_round(quantization: Fields, number: Format) -> Callable[[str], Format]:
    """Every matrix of `block_name_to_quantize`. `extra_config` has other numbers for modules, by names or patterns."""
    quantization.require("data_type", "int")
    quantization.require("rotation_config", None)
    usual = _scheme(quantization, number)
    extra = quantization.object("extra_config")
    others = {name: _over(quantization, extra.object(name), number) for name in extra.objects()}
    patterns = {
        name: any_of(quantization, "extra_config", [name], begins) for name in others if re.search(r"[^\w.]", name)
    }
    blocks = _blocks(quantization)

    def of(module: str) -> Format:
        if module in others:
            return others[module]
        name = next((name for name, meant in patterns.items() if meant(module)), None)
        return others[name] if name else usual if module.startswith(blocks) and module != "lm_head" else number

    return of


def _blocks(quantization: Fields) -> tuple[str, ...]:
    """How names of quantised modules begin."""
    field = quantization.named("block_name_to_quantize", "to_quant_block_names")
    value = quantization.get(field, "")
    names = value.split(",") if isinstance(value, str) else quantization.strings(field)
    return tuple(f"{name}." for name in names if name) or ("",)


def _over(usual: Fields, special: Fields, number: Format) -> Format:
    """By the fields of a few modules, before those of all."""
    bits = special.get("bits", usual.get("bits"))
    given = {"bits": bits, "group_size": usual.get("group_size", -1)}
    return number if isinstance(bits, int) and bits >= _PLAIN_BITS else _scheme(special.under(**given), number)


def _scheme(fields: Fields, number: Format) -> Format:
    bits = fields.get("bits")
    if bits not in _BITS:
        raise fields.error("bits", f"is not supported, only {', '.join(map(str, _BITS))} are")
    return integer_format(bits, True, number, group_size(fields))


def group_size(fields: Fields) -> int:
    """How many k share a scale; 0: all. Raises InputError."""
    return 0 if fields.get("group_size", -1) == -1 else fields.size("group_size")
