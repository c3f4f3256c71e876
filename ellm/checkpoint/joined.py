"""Weights that several tensors of a folder hold: codes, scales of groups of k, and perhaps zeros.

A weight [rows, k] is worth (code - zero) * scale; docs/numerics.md says where that is rounded, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.checkpoint.packed_words import Range, Read, Table
from ellm.kernels.formats import PLAIN, Format
from ellm.kernels.layout import from_bf16
from ellm.kernels.pack import to_bf16
from ellm.system.errors import InputError


@dataclass(frozen=True, eq=False)
class Joined:
    """What a weight [rows, k] is made of.

    Attributes:
        codes: [rows, k], unsigned.
        scales: [rows, groups of k].
        zeros: likewise, unsigned.
        zero: all of them, if there is no such tensor.
        group: k of a group.
        order: the group of each k, where that is not k // group.
        format: the packed format that such codes have, or could have.
        kept: whether it can be that, bit for bit; else the weight becomes one of `number`.
        number: the format of the model's numbers.
        scales_first: scales are rounded to `number` before the product. Else the product is rounded to their dtype.
    """

    codes: Table
    scales: Table
    zeros: Table | None
    zero: int
    group: int
    order: np.ndarray | None
    format: Format
    kept: bool
    number: Format
    scales_first: bool

    @property
    def tables(self) -> tuple[Table, ...]:
        """Its tensors."""
        return tuple(table for table in (self.codes, self.scales, self.zeros) if table)

    def parts(self, read: Read, rows: Range, columns: Range) -> dict[str, np.ndarray]:
        """A rectangle as `format` packs it: "codes", uint8 [rows, k], and bits of each part of headers, [rows, groups].

        The first column is the first of a packed group; codes are padded to a multiple of 8.
        """
        codes = self.codes.read(read, rows, columns)
        found = {"codes": np.ascontiguousarray(np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))))}
        groups = np.arange(*columns, self.format.k_per_scale) // self.group
        for part in self.format.parts:
            numbers = self._zeros(read, rows, groups) if part == "zero" else self._scale_bits(read, rows, groups)
            found[part] = np.broadcast_to(numbers, (rows[1] - rows[0], len(groups)))
        return found

    def numbers(self, read: Read, rows: Range, columns: Range) -> np.ndarray:
        """What a rectangle is worth: the bits of `number`, [rows, k]. Raises InputError if one is not finite."""
        k = np.arange(*columns)
        groups = k // self.group if self.order is None else self.order[k]
        values = self.format.decode(self.codes.read(read, rows, columns))
        if self.format.zero:
            values = values - self._zeros(read, rows, groups).view(np.int8).astype(np.float32)
        scales = self._of_groups(self.scales, read, rows, groups)
        with np.errstate(invalid="ignore", over="ignore"):
            values = self._rounded(values, scales)
        wrong = ~np.isfinite(values)
        if wrong.any():
            tensor, found = self.codes.tensor, values[wrong][0]
            raise InputError(
                f"{tensor.path}: {tensor}: is {found} where it is scaled, a weight must be a finite number"
            )
        return _bits(values, self.number)

    def _rounded(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Products, numbers of the model's dtype in float32."""
        number = self.number.stored.dtype
        if self.scales_first:
            return _rounded(values * _rounded(scales, number), number)
        return _rounded(_rounded(values * scales, self.scales.tensor.dtype), number)

    def _scale_bits(self, read: Read, rows: Range, groups: np.ndarray) -> np.ndarray:
        scales = self._of_groups(self.scales, read, rows, groups)
        return scales.view(np.uint32) if self.format.scale == np.float32 else _bits(scales, self.number)

    def _zeros(self, read: Read, rows: Range, groups: np.ndarray) -> np.ndarray:
        """Less what stands for 0, the bits of int8."""
        middle = np.uint8(-self.format.decode(np.zeros(1, np.uint8))[0])
        if self.zeros is None:
            return np.full((1, 1), self.zero, np.uint8) - middle
        return self._of_groups(self.zeros, read, rows, groups) - middle

    def _of_groups(self, table: Table, read: Read, rows: Range, groups: np.ndarray) -> np.ndarray:
        first = int(groups.min())
        found = table.read(read, rows, (first, int(groups.max()) + 1))
        return np.ascontiguousarray(found[:, groups - first] if found.shape[1] > 1 else found)


def _bits(values: np.ndarray, number: Format) -> np.ndarray:
    if number is PLAIN:
        return to_bf16(values)
    with np.errstate(over="ignore"):  # an infinite scale is refused later
        return values.astype(np.float16).view(np.uint16)


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32, rounded to what a dtype can hold."""
    if dtype == "BF16":
        return from_bf16(to_bf16(values))
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values
