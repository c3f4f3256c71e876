"""Finds the tensors of a folder that hold one weight together, and checks that they fit each other.

Which layout they are in is told by their names, their dtypes and `quantization_config`; how wide a code is and how many
k share a scale, by their shapes. So it does not matter which modules a config says are quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ellm.checkpoint.joined import Joined
from ellm.checkpoint.packed_words import WORD, Table, Words
from ellm.checkpoint.tensors import NUMBERS, TensorInfo
from ellm.kernels.formats import FP8_ROWS, PLAIN, Format, integer_format, stored_format, unquantized
from ellm.system.errors import InputError

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # autoawq, awq/utils/packing_utils.py, AWQ_REVERSE_ORDER
_AUTO_ROUND = {  # auto_round/inference/backend.py: GPTQ_FORMAT, GPTQ_FORMAT_NO_ZP, AWQ_FORMAT
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round": "gptq_v2",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round:auto_awq": "awq",
    "auto_round:awq": "awq",
}
_MOST_BITS = 8


def join(config: Mapping[str, Any], tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by name, those that hold a weight together as one with the weight's name.

    Raises InputError if one of them is missing, or their dtypes or shapes do not fit each other.
    """
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    finders = _FINDERS.get(method) if isinstance(method, str) else None
    if not isinstance(quantization, Mapping) or not finders:
        return tensors
    number = unquantized(config.get("dtype") or config.get("torch_dtype"))
    found, taken = {}, set[str]()
    for name, tensor in tensors.items():
        stem, _, suffix = name.rpartition(".")
        find = finders.get((suffix, tensor.dtype))
        if find is None:
            continue
        module = _Module(stem, tensor, tensors, quantization, number, taken)
        joined = find(module)
        if joined:
            taken.add(name)
            found[f"{stem}.weight"] = _as_one(f"{stem}.weight", tensor, joined)
    kept = {name: tensor for name, tensor in tensors.items() if name not in taken}
    return _blocks_named(kept) | found


def _as_one(name: str, codes: TensorInfo, joined: Joined) -> TensorInfo:
    shape = joined.codes.shape
    format = joined.format if joined.kept else joined.number
    return replace(codes, name=name, shape=shape, dtype=format.stored.dtype, joined=joined)


def _blocks_named(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """FP8's scales of blocks by one name, whatever the method calls them: all multiply."""
    names = {}
    for name, tensor in tensors.items():
        format = stored_format(name, tensor.dtype)
        if format.number == FP8_ROWS.number and f"{name}_scale" in tensors:
            names[f"{name}_scale"] = name + format.stored.scales
    return {names.get(name, name): replace(tensor, name=names.get(name, name)) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Module:
    """A module whose weight is stored as codes, and the tensors beside them."""

    name: str
    codes: TensorInfo
    tensors: Mapping[str, TensorInfo]
    quantization: Mapping[str, Any]
    number: Format
    taken: set[str]

    def partner(self, suffix: str, *dtypes: str) -> TensorInfo | None:
        """One of them, if it is there, for this weight alone. Raises InputError if its dtype is none of these."""
        tensor = self.tensors.get(f"{self.name}.{suffix}")
        if tensor is not None:
            if tensor.dtype not in dtypes:
                raise self.error(tensor, f"dtype is {tensor.dtype}, must be {' or '.join(dtypes)}")
            self.taken.add(tensor.name)
        return tensor

    def needed(self, suffix: str, *dtypes: str) -> TensorInfo:
        """As `partner`, but raises InputError if there is none."""
        tensor = self.partner(suffix, *dtypes)
        if tensor is None:
            raise self.error(self.codes, f"{self.name}.{suffix}, which belongs to it, is missing")
        return tensor

    def error(self, tensor: TensorInfo, problem: str) -> InputError:
        """Make the error; the caller raises it."""
        return InputError(f"{tensor.path}: {tensor}: {problem}")

    def check(self, tensor: TensorInfo, *shapes: tuple[int, ...]) -> None:
        """Raise InputError unless a partner has one of these shapes."""
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            codes = f"{self.codes} of shape {list(self.codes.shape)}"
            raise self.error(tensor, f"shape is {list(tensor.shape)}, with {codes} it must be {wanted}")

    def matrix(self, tensor: TensorInfo) -> tuple[int, int]:
        """The shape of a matrix. Raises InputError if it is none, or empty."""
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise self.error(tensor, f"shape is {list(tensor.shape)}, must be that of a matrix")
        return tensor.shape[0], tensor.shape[1]

    def group(self, scales: TensorInfo, k: int, count: int) -> int:
        """How many of k columns share one of `count` scales: what the config says if that fits, or all the same."""
        sizes = [size for size in _sizes(self.quantization) if _up(k, size) == count]
        if count == 1 or sizes:
            return k if count == 1 else sizes[0]
        if k % count:
            raise self.error(scales, f"has {count} groups, {self.codes} has {k} columns, which is no multiple")
        return k // count

    def order(self, suffix: str, k: int, group: int, count: int) -> np.ndarray | None:
        """The group of each k, unless it is as without that tensor."""
        tensor = self.partner(suffix, "I32")
        if tensor is None or self.quantization.get("desc_act") is False:
            return None
        self.check(tensor, (k,))
        try:
            groups = np.fromfile(tensor.path, "<i4", k, offset=tensor.offset)
        except OSError as error:
            raise self.error(tensor, f"cannot be read: {error.strerror}") from error
        wrong = (groups < 0) | (groups >= count) if len(groups) == k else np.ones(1, bool)
        if wrong.any():
            found = groups[wrong][0] if len(groups) == k else f"{len(groups)} numbers"
            raise self.error(tensor, f"holds {found}, must be {k} numbers from 0 to {count - 1}")
        return None if (groups == np.arange(k) // group).all() else groups

    def integers(
        self,
        bits: int,
        codes: Table,
        scales: Table,
        zeros: Table | None,
        order: np.ndarray | None,
        *,
        scales_first: bool,
    ) -> Joined:
        """Codes of whole numbers, whose middle one is 0 unless there are zeros."""
        k, count = codes.shape[1], scales.shape[1]
        group = self.group(scales.tensor, k, count)
        packed = integer_format(bits, zeros is not None, self.number, group if count > 1 else 0)
        fits = order is None and (scales_first or scales.tensor.dtype == self.number.stored.dtype)
        kept = fits and packed.stored.joined
        return Joined(
            codes,
            scales,
            zeros,
            zero=1 << bits - 1,
            group=group,
            order=order,
            format=packed if kept else integer_format(bits, True, self.number, 0),
            kept=kept,
            number=self.number,
            scales_first=scales_first,
        )


def _up(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _sizes(quantization: Mapping[str, Any]) -> list[int]:
    """The sizes of groups that a config names anywhere."""
    return [size for _, size in _schemes(quantization) if size]


def _schemes(quantization: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Bits, and the size of groups or 0, of a config and of its `config_groups`."""
    groups = quantization.get("config_groups")
    inner = (
        [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
        if isinstance(groups, Mapping)
        else []
    )
    found = []
    for scheme in (quantization, *inner):
        if isinstance(scheme, Mapping):
            bits, size = scheme.get("num_bits", scheme.get("bits")), scheme.get("group_size")
            right = isinstance(bits, int) and 2 <= bits <= _MOST_BITS
            found.append((bits if right else 4, size if isinstance(size, int) and size > 0 else 0))
    return found


def _pack_quantized(module: _Module) -> Joined:
    """compressed-tensors: words along k, and zeros in words along the rows."""
    rows, words = module.matrix(module.codes)
    scales = module.needed("weight_scale", *NUMBERS)
    _, count = module.matrix(scales)
    module.check(scales, (rows, count))
    bits = _bits_of_words(module, words, count)
    codes = Table(module.codes, words=Words(bits, axis=1))
    zeros = module.partner("weight_zero_point", "I32")
    if zeros:
        module.check(zeros, (_up(rows * bits, WORD), count))
    module.partner("weight_shape", "I64", "I32")  # which is that of the codes, as k is a multiple of what a word holds
    group = module.group(scales, codes.shape[1], count)
    order = module.order("weight_g_idx", codes.shape[1], group, count)
    zeros_table = Table(zeros, words=Words(bits, axis=0)) if zeros else None
    return module.integers(bits, codes, Table(scales), zeros_table, order, scales_first=False)


def _bits_of_words(module: _Module, words: int, count: int) -> int:
    """Bits of a code: those of the scheme whose groups fit as many scales."""
    schemes = _schemes(module.quantization)[1:] or [(4, 0)]
    fits = {
        bits
        for bits, size in schemes
        if (_up(words * WORD // bits, size) == count if size else True) or len(schemes) == 1
    }
    if len(fits) != 1:
        raise module.error(module.codes, f"has {count} groups, of which config_groups have {len(fits)} numbers of bits")
    return fits.pop()


def _bytes(module: _Module) -> Joined:
    """compressed-tensors, int-quantized: signed bytes, whose scales and zeros are of rows, groups or all."""
    rows, _ = module.matrix(module.codes)
    scales = module.needed("weight_scale", *NUMBERS)
    zeros = module.partner("weight_zero_point", "I8")
    count = module.matrix(scales)[1] if len(scales.shape) == 2 else 1
    module.check(scales, (rows, count), (rows,), (1, 1), (1,), ())
    if zeros:
        module.check(zeros, tuple(scales.shape))
    table = Table(zeros) if zeros else None
    return module.integers(8, Table(module.codes), Table(scales), table, None, scales_first=False)


def _fp8(module: _Module) -> Joined | None:
    """A scale for each row, or one for all; None if the scales are those of blocks, or there are none."""
    names = [name for name in ("weight_scale", "weight_scale_inv") if f"{module.name}.{name}" in module.tensors]
    if not names or len(module.codes.shape) != 2:
        return None
    (rows, k), scales = module.matrix(module.codes), module.tensors[f"{module.name}.{names[0]}"]
    blocks = tuple(stored_format("", module.codes.dtype).scales_shape(rows, k, transposed=False))
    if tuple(scales.shape) == blocks:
        return None
    scales = module.needed(names[0], *NUMBERS)
    module.check(scales, (rows, 1), (rows,), (1, 1), (1,), (), blocks)
    kept = module.number is PLAIN and scales.dtype in ("F32", module.number.stored.dtype)
    codes = Table(module.codes)
    return Joined(codes, Table(scales), None, 0, k, None, FP8_ROWS, kept, module.number, scales_first=False)


def _by_format(module: _Module) -> Joined:
    """GPTQ, whose versions differ in what zeros are stored as."""
    return _in_layout(module, "checkpoint_format", {name: name for name in ("gptq", "gptq_v2")})


def _by_packing(module: _Module) -> Joined:
    return _in_layout(module, "packing_format", _AUTO_ROUND)


def _in_layout(module: _Module, field: str, layouts: Mapping[str, str]) -> Joined:
    """By the layout that a field of the config names, the first one if it is absent."""
    value = module.quantization.get(field) or next(iter(layouts))
    if not isinstance(value, str) or value not in layouts:
        raise module.error(module.codes, f"{field} is {value!r}, known are {', '.join(layouts)}")
    return _LAYOUTS[layouts[value]](module)


def _gptq(module: _Module, added: int) -> Joined:
    """Codes [k / 8, rows], words along k; scales [groups, rows]; zeros [groups, rows / 8], words along rows."""
    words, rows = module.matrix(module.codes)
    scales = module.needed("scales", *NUMBERS)
    zeros = module.needed("qzeros", "I32")
    count, _ = module.matrix(scales)
    module.check(scales, (count, rows))
    widths = {(count, _up(rows * bits, WORD)): bits for bits in (3, 8, 2, 4)}
    module.check(zeros, *widths)
    bits = widths[count, zeros.shape[1]]
    codes = Table(module.codes, turned=True, words=Words(bits, axis=0))
    k = words * WORD // bits
    order = module.order("g_idx", k, module.group(scales, k, count), count)
    zeros_table = Table(zeros, turned=True, words=Words(bits, axis=1, added=added))
    return module.integers(bits, codes, Table(scales, turned=True), zeros_table, order, scales_first=True)


def _awq(module: _Module) -> Joined:
    """Codes [k, rows / 8] and zeros [groups, rows / 8], words along rows; scales [groups, rows]."""
    _, words = module.matrix(module.codes)
    scales, zeros = module.needed("scales", *NUMBERS), module.needed("qzeros", "I32")
    count, _ = module.matrix(scales)
    module.check(scales, (count, 8 * words))
    module.check(zeros, (count, words))
    codes, zeros_table = (
        Table(tensor, turned=True, words=Words(4, axis=1, places=_AWQ_PLACES)) for tensor in (module.codes, zeros)
    )
    return module.integers(4, codes, Table(scales, turned=True), zeros_table, None, scales_first=True)


_LAYOUTS: dict[str, Callable[[_Module], Joined]] = {
    "gptq": lambda module: _gptq(module, added=1),  # zeros are stored less one
    "gptq_v2": lambda module: _gptq(module, added=0),
    "awq": _awq,
}
_FP8 = {("weight", "F8_E4M3"): _fp8}
_FINDERS: dict[str, Mapping[tuple[str, str], Callable[[_Module], Joined | None]]] = {
    "compressed-tensors": {("weight_packed", "I32"): _pack_quantized, ("weight", "I8"): _bytes, **_FP8},
    "fp8": _FP8,
    "fbgemm_fp8": _FP8,
    "awq": {("qweight", "I32"): _awq},
    "gptq": {("qweight", "I32"): _by_format},
    "auto-round": {("qweight", "I32"): _by_packing},
    "intel/auto-round": {("qweight", "I32"): _by_packing},
}
"""By `quant_method`, the last part of a tensor's name, and its dtype."""
