"""Packs one piece of a weight at a time: rows of one source that lie side by side, in blocks small enough to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.expand import FP8_BLOCK, MXFP4_BLOCK, expand_fp8, expand_mxfp4
from ellm.checkpoint.sources import Entry, tensor_name
from ellm.kernels.contract import FORMATS, column_bytes
from ellm.kernels.pack import has_nan, pack_rows, pack_scales
from ellm.system.errors import InputError

_COLUMNS, _TILE_K = 16, 32  # of a tile
_BLOCK_BYTES = 1 << 19  # packed at a time by each thread: with the f32 that some dtypes need, some 3 MB


@dataclass
class Piece:
    """Rows [first, last) of one source and the runs that make packed columns of them, int64 [n, 5] (pack.pyx)."""

    source: Entry
    first: int
    last: int
    runs: np.ndarray


def cut_pieces(weight: Entry, begin: int, end: int) -> list[Piece]:
    """The pieces that make up the packed columns [begin, end) of a weight."""
    runs = np.array([(*run, 1)[:5] for run in weight["runs"]], np.int64).reshape(-1, 5)
    before, after = np.clip(begin - runs[:, 3], 0, runs[:, 2]), np.clip(end - runs[:, 3], 0, runs[:, 2])
    runs[:, 1] += before * runs[:, 4]
    runs[:, 2] = after - before
    runs[:, 3] += before
    runs = runs[runs[:, 2] > 0]
    runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
    pieces: list[Piece] = []
    start = last = 0
    for i, (source, first, rows, _, step) in enumerate(runs.tolist()):
        if i == 0 or source != runs[start, 0] or first > last:
            start, last = i, first
            pieces.append(Piece(weight["sources"][source], first, first, runs[i:i]))
        last = max(last, first + (rows - 1) * step + 1)
        pieces[-1].last, pieces[-1].runs = last, runs[start : i + 1]
    return pieces


def pack_piece(checkpoint: Checkpoint, weight: Entry, piece: Piece, matrix: int, address: int) -> None:
    """Pack a piece of one matrix of a weight, which lies at `address`.

    Raises InputError if the file has become unreadable or holds NaN, ValueError if the first k of an fp8 or mxfp4
    weight is not the first of a block.
    """
    if piece.source.get("transposed"):
        _pack_transposed(checkpoint, weight, piece, matrix, address)
        return
    k, k_tiles, format = weight["k"], weight["k_tiles"], weight.get("format", "bf16")
    shift, first_k = matrix * piece.source.get("head_rows", 0), piece.source.get("first_k", 0)
    rows_per_scale = FP8_BLOCK if format == "fp8" else 1
    most = max(_BLOCK_BYTES // column_bytes(FORMATS[format], k_tiles), 1) * _COLUMNS
    for row in range(piece.first, piece.last, most):
        end = min(row + most, piece.last)
        codes, scales = _read(checkpoint, weight, piece, matrix, (shift + row, shift + end), (first_k, first_k + k))
        pack_rows(codes.view(np.uint8), row, piece.runs, address, format, k_tiles)
        if scales is not None:
            offset = shift - (shift + row) // rows_per_scale * rows_per_scale
            pack_scales(scales, rows_per_scale, row, end, offset, piece.runs, address, format, k_tiles)


def _pack_transposed(checkpoint: Checkpoint, weight: Entry, piece: Piece, matrix: int, address: int) -> None:
    """`pack_piece` of a source that is stored [k, rows]."""
    k, k_tiles, format = weight["k"], weight["k_tiles"], weight.get("format", "bf16")
    shift = matrix * piece.source.get("head_rows", 0) + piece.source.get("first_k", 0)
    columns = piece.first, piece.last
    most = max(_BLOCK_BYTES // 2 // (piece.last - piece.first) // FP8_BLOCK, 1) * FP8_BLOCK
    for first in range(0, k, most):
        rows = shift + first, shift + min(first + most, k)
        codes, scales = _read(checkpoint, weight, piece, matrix, rows, columns)
        turned = np.ascontiguousarray(codes.T).view(np.uint8)
        pack_rows(turned, piece.first, piece.runs, address, format, k_tiles, first // _TILE_K)
        if scales is not None:
            offset = -(piece.first // FP8_BLOCK * FP8_BLOCK)
            first_scale = first // FP8_BLOCK
            pack_scales(scales.T, FP8_BLOCK, *columns, offset, piece.runs, address, format, k_tiles, first_scale)


def _read(
    checkpoint: Checkpoint, weight: Entry, piece: Piece, matrix: int, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """A rectangle of a stored matrix in the weight's format, and the scales of its blocks if that has any."""
    source = piece.source
    name = tensor_name(source, matrix)
    precision = checkpoint.tensors[name].precision
    stacked = matrix if source.get("stacked") else None
    pairs = 2 if precision == "mxfp4" else 1
    codes = checkpoint.read_rows(name, *rows, matrix=stacked, columns=(columns[0] // pairs, -(-columns[1] // pairs)))
    if precision not in ("fp8", "mxfp4"):
        return np.ascontiguousarray(codes), None
    height, width = (FP8_BLOCK, FP8_BLOCK) if precision == "fp8" else (1, MXFP4_BLOCK)
    scales_name = tensor_name(source["scales"], matrix)
    scales = checkpoint.read_scales(scales_name, rows[0] // height, -(-rows[1] // height), matrix=stacked)
    scales = scales[:, columns[0] // width : -(-columns[1] // width)]
    _refuse_nan(checkpoint, precision, name, codes, scales_name, scales)
    if weight.get("format", "bf16") != "bf16":
        first_k = rows[0] if source.get("transposed") else columns[0]
        if first_k % width:
            raise ValueError(f"{weight['name']}: k begins at {first_k} of {name}, must be a multiple of {width}")
        return codes, scales
    if precision == "mxfp4":
        return expand_mxfp4(codes, scales), None
    return expand_fp8(codes, scales, rows[0] % FP8_BLOCK, columns[0] % FP8_BLOCK), None


def _refuse_nan(
    checkpoint: Checkpoint, precision: str, name: str, codes: np.ndarray, scales_name: str, scales: np.ndarray
) -> None:
    """NaN is code 0x7f or 0xff in E4M3, 255 in E8M0."""
    if precision == "fp8" and has_nan(codes):
        tensor = checkpoint.tensors[name]
        raise InputError(f"{tensor.path}: {tensor}: holds NaN (code 0x7f or 0xff), a weight must be a number")
    bad = ~np.isfinite(scales) if precision == "fp8" else scales == 255
    if bad.any():
        tensor = checkpoint.tensors[scales_name]
        raise InputError(f"{tensor.path}: {tensor}: holds {scales[bad][0]}, a scale must be finite")
