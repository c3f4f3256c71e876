"""Matrices of small whole numbers as safetensors hold them: an item each, or several in words of 32 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ellm.checkpoint.tensors import TensorInfo

Range = tuple[int, int]
Read = Callable[["TensorInfo", Range, Range], np.ndarray]
"""A rectangle of a tensor by its rows and columns: words, bytes, or numbers as float32."""

WORD = 32  # bits


@dataclass(frozen=True)
class Words:
    """Numbers in words, one after the other from the lowest bit of the first word on.

    Attributes:
        bits: of a number.
        axis: of the stored tensor along which a word's numbers are neighbours.
        places: the place in a word of each of its numbers; none: in order.
        added: to every number. Of those that do not spill into the next word, it is a sum of words, with its carries.
    """

    bits: int
    axis: int
    places: tuple[int, ...] = ()
    added: int = 0

    @property
    def cycle(self) -> int:
        """After so many numbers one begins where a word does."""
        return WORD // gcd(self.bits, WORD)

    def unpack(self, words: np.ndarray) -> np.ndarray:
        """uint32, a matrix, as uint8: longer along `axis`, so that a word's numbers lie side by side."""
        if self.axis == 0:
            words = words.T
        numbers = self._spilling(words) if WORD % self.bits else self._whole(words)
        return numbers.T if self.axis == 0 else numbers

    def _whole(self, words: np.ndarray) -> np.ndarray:
        each, mask = WORD // self.bits, np.uint32((1 << self.bits) - 1)
        out = np.empty((*words.shape, each), np.uint8)
        words = words + np.uint32(sum(self.added << self.bits * place for place in range(each)))
        for number, place in enumerate(self.places or range(each)):
            out[..., number] = words >> np.uint32(self.bits * place) & mask
        return out.reshape(len(words), -1)

    def _spilling(self, words: np.ndarray) -> np.ndarray:
        """Of which some begin in one word and end in the next."""
        bits = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), axis=1, bitorder="little")
        numbers = bits[:, : bits.shape[1] // self.bits * self.bits].reshape(len(words), -1, self.bits)
        return np.packbits(numbers, axis=2, bitorder="little")[:, :, 0] + np.uint8(self.added) & (1 << self.bits) - 1


@dataclass(frozen=True)
class Table:
    """A matrix [rows, columns] as a tensor has it: `turned` if that is [columns, rows], in words or an item each.

    If it has one row or one column, all are like that.
    """

    tensor: TensorInfo
    turned: bool = False
    words: Words | None = None

    @property
    def shape(self) -> Range:
        """Rows and columns; of words, as many as they have room for."""
        stored = [*self.tensor.shape, 1, 1][:2]
        if self.words:
            stored[self.words.axis] = stored[self.words.axis] * WORD // self.words.bits
        return (stored[1], stored[0]) if self.turned else (stored[0], stored[1])

    def read(self, read: Read, rows: Range, columns: Range) -> np.ndarray:
        """A rectangle, [rows, columns], or with 1 for that of which there is one. Signed bytes count from -128."""
        shape = self.shape
        rows, columns = rows if shape[0] > 1 else (0, 1), columns if shape[1] > 1 else (0, 1)
        stored = (columns, rows) if self.turned else (rows, columns)
        found = self._unpacked(read, *stored) if self.words else read(self.tensor, *stored)
        if self.tensor.dtype == "I8":
            found = found ^ np.uint8(0x80)
        return found.T if self.turned else found

    def _unpacked(self, read: Read, *stored: Range) -> np.ndarray:
        assert self.words
        axis, bits = self.words.axis, self.words.bits
        begin = stored[axis][0] // self.words.cycle * self.words.cycle
        ranges = [*stored]
        ranges[axis] = begin * bits // WORD, -(-stored[axis][1] * bits // WORD)
        numbers = self.words.unpack(read(self.tensor, *ranges))
        cut = slice(stored[axis][0] - begin, stored[axis][1] - begin)
        return numbers[cut] if axis == 0 else numbers[:, cut]
