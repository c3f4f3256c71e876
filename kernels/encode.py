"""`Format.encode` at the speed of memory, by the vectors of this machine: the same bits on every ISA."""

from __future__ import annotations

import importlib

import numpy as np

from ellm.kernels import isa as isas
from ellm.kernels.format import Format

LARGEST = 2.0**20
"""The largest magnitude of a number that is encoded, so that each of its scales is one that f16 has."""


def encode(format: Format, values: np.ndarray, isa: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, k] as codes uint8 [rows, k'] and the bits of scales, uint16 [rows, groups], in a format.

    k' is k rounded up to whole groups, of zeros. All numbers are at most LARGEST in magnitude. `isa`: whose vectors do
    it (None: those of `ellm.kernels.isa.choose`).
    """
    module = importlib.import_module(f"ellm.kernels._{isa or isas.choose().isa}")
    rows, k = values.shape
    groups = -(-k // format.k_per_scale)
    whole = np.ascontiguousarray(np.pad(values, ((0, 0), (0, groups * format.k_per_scale - k))), np.float32)
    codes, scales = np.empty(whole.shape, np.uint8), np.empty((rows, groups), np.float32)
    each = (-1, format.k_per_scale)
    tried = np.array(format.tried, np.float32)
    module.encode(format.worths, tried, whole.reshape(each), codes.reshape(each), scales.reshape(-1))
    return codes, scales.astype(np.float16).view(np.uint16)
