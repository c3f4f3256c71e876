"""Packs one piece of a weight at a time: rows of one source that lie side by side, in blocks small enough to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.sources import tensor_name
from ellm.checkpoint.tensors import TensorInfo
from ellm.kernels.contract import TILE_K, TILE_N
from ellm.kernels.encode import LARGEST, encode
from ellm.kernels.formats import BLOCK_K, PLAIN, Format
from ellm.kernels.pack import has_nan, pack_codes, pack_rows, pack_scales, to_bf16
from ellm.scheduler.contents import Source, WeightEntry
from ellm.system.errors import InputError

_COLUMNS_AT_ONCE = 4
_BLOCK_BYTES = 1 << 19  # packed at a time by each thread: with the f32 that some dtypes need, some 3 MB


@dataclass
class Piece:
    """Rows [first, last) of one source and the runs that make packed columns of them, int64 [n, 5] (pack.pyx)."""

    source: Source
    first: int
    last: int
    runs: np.ndarray


def cut_pieces(weight: WeightEntry, begin: int, end: int) -> list[Piece]:
    """The pieces that make up the packed columns [begin, end) of a weight."""
    runs = np.array([(*run, 1)[:5] for run in weight.runs], np.int64).reshape(-1, 5)
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
            pieces.append(Piece(weight.sources[source], first, first, runs[i:i]))
        last = max(last, first + (rows - 1) * step + 1)
        pieces[-1].last, pieces[-1].runs = last, runs[start : i + 1]
    return pieces


def pack_piece(checkpoint: Checkpoint, weight: WeightEntry, piece: Piece, matrix: int, address: int) -> None:
    """Pack a piece of one matrix of a weight, which lies at `address`.

    Raises InputError if the file has become unreadable or holds NaN, ValueError if the first k of a weight that keeps
    its scales is not the first of a block.
    """
    if checkpoint.tensors[tensor_name(piece.source, matrix)].format is not weight.packed:
        _pack_values(checkpoint, weight, piece, matrix, address)
        return
    if weight.packed.blocked:
        _pack_parts(checkpoint, weight, piece, matrix, address)
        return
    if piece.source.transposed:
        _pack_transposed(checkpoint, weight, piece, matrix, address)
        return
    if checkpoint.tensors[tensor_name(piece.source, matrix)].as_packed:
        _pack_as_stored(checkpoint, weight, piece, matrix, address)
        return
    source, format, shift = piece.source, weight.packed, matrix * piece.source.head_rows
    columns, stacked = (source.first_k, source.first_k + weight.k), matrix if source.stacked else None
    most = max(_BLOCK_BYTES // format.column_bytes(weight.k_tiles), 1) * TILE_N
    for row in range(piece.first, piece.last, most):
        rows = shift + row, shift + min(row + most, piece.last)
        codes = checkpoint.read_rows(tensor_name(source, matrix), *rows, matrix=stacked, columns=columns)
        pack_rows(np.ascontiguousarray(codes).view(np.uint8), row, piece.runs, address, format.name, weight.k_tiles)


def _pack_as_stored(checkpoint: Checkpoint, weight: WeightEntry, piece: Piece, matrix: int, address: int) -> None:
    """`pack_piece` of rows whose bytes are packed as the file has them, and their scales if the format has any."""
    source, format = piece.source, weight.packed
    name, shift, per_item = tensor_name(source, matrix), matrix * source.head_rows, format.codes_per_item
    first, end = source.first_k, source.first_k + weight.k
    items, rows = (first // per_item, -(-end // per_item)), (piece.first, piece.last)
    stacked = matrix if source.stacked else None
    if format.stored.scales:
        _refuse_middle(weight, name, first)
        begin, shared = shift + piece.first, format.stored.rows_per_scale
        scales = _read_scales(checkpoint, source, matrix, (begin, shift + piece.last), (first, end))
        offset = shift - begin // shared * shared
        pack_scales(format.scale_bits(scales), shared, *rows, offset, piece.runs, address, format.name, weight.k_tiles)
    found = checkpoint.pack_rows(
        name, shift + piece.first, rows, items, piece.runs, address, weight.k_tiles, matrix=stacked
    )
    if found:
        _refuse_nan(checkpoint, format, name)


def _pack_parts(checkpoint: Checkpoint, weight: WeightEntry, piece: Piece, matrix: int, address: int) -> None:
    """`pack_piece` of a weight that keeps its codes, its scales and what else a block has."""
    format, k_tiles, source = weight.packed, weight.k_tiles, piece.source
    name = tensor_name(source, matrix)
    columns, shift = (source.first_k, source.first_k + weight.k), matrix * source.head_rows
    stacked = matrix if source.stacked else None
    most = max(_rectangle(checkpoint.tensors[name]) // format.column_bytes(k_tiles), 1) * TILE_N
    for row in range(piece.first, piece.last, most):
        end = min(row + most, piece.last)
        parts = checkpoint.read_parts(name, shift + row, shift + end, matrix=stacked, columns=columns)
        codes = parts.pop("codes")
        if format.nan is not None and has_nan(codes, format.nan):
            _refuse_nan(checkpoint, format, name)
        pack = pack_rows if format.paired else pack_codes
        pack(codes, row, piece.runs, address, format.name, k_tiles)
        for part, numbers in parts.items():
            _refuse_infinite(checkpoint, name, format, part, numbers)
            pack_scales(numbers, 1, row, end, -row, piece.runs, address, format.name, k_tiles, part=part)


def _rectangle(tensor: TensorInfo) -> int:
    """How many bytes to pack at a time: more where the file has columns, of which each is read on its own."""
    return _BLOCK_BYTES * (_COLUMNS_AT_ONCE if tensor.joined and tensor.joined.codes.turned else 1)


def _refuse_infinite(checkpoint: Checkpoint, name: str, format: Format, part: str, bits: np.ndarray) -> None:
    numbers = np.ascontiguousarray(bits).view(format.parts[part].dtype)
    finite = np.isfinite(format.decode_scale(numbers) if part == "scale" else numbers)
    if not finite.all():
        tensor = checkpoint.tensors[name]
        of = tensor.joined.scales.tensor if tensor.joined else tensor
        found = format.decode_scale(numbers)[~finite][0] if tensor.joined else numbers[~finite][0]
        raise InputError(f"{of.path}: {of}: holds {found}, a scale must be finite")


def _pack_values(checkpoint: Checkpoint, weight: WeightEntry, piece: Piece, matrix: int, address: int) -> None:
    """`pack_piece` of a source that is stored in another format: its numbers, encoded in that of the weight."""
    k, source = weight.k, piece.source
    shift = matrix * source.head_rows
    if source.transposed:
        most = max(_BLOCK_BYTES // 4 // (piece.last - piece.first) // BLOCK_K, 1) * BLOCK_K
        for first in range(0, k, most):
            rows = shift + source.first_k + first, shift + source.first_k + min(first + most, k)
            values = _read_values(checkpoint, source, matrix, rows, (piece.first, piece.last))
            _write_values(checkpoint, weight, piece, matrix, address, values.T, piece.first, first)
        return
    most = max(_BLOCK_BYTES // 4 // (k * TILE_N), 1) * TILE_N
    for row in range(piece.first, piece.last, most):
        rows = shift + row, shift + min(row + most, piece.last)
        values = _read_values(checkpoint, source, matrix, rows, (source.first_k, source.first_k + k))
        _write_values(checkpoint, weight, piece, matrix, address, values, row, 0)


def _read_values(
    checkpoint: Checkpoint, source: Source, matrix: int, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """A rectangle of a stored matrix, float32."""
    name = tensor_name(source, matrix)
    format = checkpoint.tensors[name].format
    if not format.stored.scales:
        stacked = matrix if source.stacked else None
        return checkpoint.read_values(name, *rows, matrix=stacked, columns=columns)
    codes, scales = _read_codes(checkpoint, source, matrix, rows, columns)
    height, width = format.scale_block(source.transposed)
    first = rows[0] % height, columns[0] % width
    return format.expand(codes.view(np.uint8), scales, first, source.transposed)[:, : columns[1] - columns[0]]


def _write_values(
    checkpoint: Checkpoint,
    weight: WeightEntry,
    piece: Piece,
    matrix: int,
    address: int,
    values: np.ndarray,
    row: int,
    first: int,
) -> None:
    """Encode rows of a source, float32 [rows, k] from packed k `first` on, into the packed weight."""
    format, end = weight.packed, row + len(values)
    if not format.k_per_scale:
        numbers = to_bf16(values) if format is PLAIN else np.ascontiguousarray(values, np.float16)
        bits, k_tile = numbers.view(np.uint8), first // TILE_K
        pack_rows(bits, row, piece.runs, address, format.name, weight.k_tiles, k_tile)
        return
    large = ~(np.abs(values) <= LARGEST)
    if large.any():
        tensor = checkpoint.tensors[tensor_name(piece.source, matrix)]
        raise InputError(
            f"{tensor.path}: {tensor}: holds {values[large][0]}, a weight must be from {-LARGEST:g} to {LARGEST:g} to "
            f"become {format.name}"
        )
    codes, scales = encode(format, values)
    pack_codes(codes, row, piece.runs, address, format.name, weight.k_tiles, first // TILE_K)
    group = first // format.k_per_scale
    pack_scales(scales, 1, row, end, -row, piece.runs, address, format.name, weight.k_tiles, group)


def _pack_transposed(checkpoint: Checkpoint, weight: WeightEntry, piece: Piece, matrix: int, address: int) -> None:
    """`pack_piece` of a source that is stored [k, rows]."""
    k, k_tiles, format = weight.k, weight.k_tiles, weight.packed
    shift = matrix * piece.source.head_rows + piece.source.first_k
    columns, shared = (piece.first, piece.last), format.stored.rows_per_scale
    most = max(_BLOCK_BYTES // 2 // (piece.last - piece.first) // BLOCK_K, 1) * BLOCK_K
    for first in range(0, k, most):
        rows = shift + first, shift + min(first + most, k)
        codes, scales = _read(checkpoint, weight, piece, matrix, rows, columns)
        turned = np.ascontiguousarray(codes.T).view(np.uint8)
        pack_rows(turned, piece.first, piece.runs, address, format.name, k_tiles, first // TILE_K)
        if scales is not None:
            offset, first_scale = -(piece.first // shared * shared), first // format.k_per_scale
            pack_scales(scales.T, shared, *columns, offset, piece.runs, address, format.name, k_tiles, first_scale)


def _read(
    checkpoint: Checkpoint,
    weight: WeightEntry,
    piece: Piece,
    matrix: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray | None]:
    """A rectangle of a stored matrix in the weight's format, and the bits of its blocks' scales if that has any."""
    source, format = piece.source, weight.packed
    if not format.stored.scales:
        stacked = matrix if source.stacked else None
        name = tensor_name(source, matrix)
        return np.ascontiguousarray(checkpoint.read_rows(name, *rows, matrix=stacked, columns=columns)), None
    _refuse_middle(weight, tensor_name(source, matrix), rows[0] if source.transposed else columns[0])
    codes, scales = _read_codes(checkpoint, source, matrix, rows, columns)
    return codes, format.scale_bits(scales)


def _refuse_middle(weight: WeightEntry, name: str, first_k: int) -> None:
    if first_k % weight.packed.k_per_scale:
        per_scale = weight.packed.k_per_scale
        raise ValueError(f"{weight.name}: k begins at {first_k} of {name}, must be a multiple of {per_scale}")


def _read_codes(
    checkpoint: Checkpoint, source: Source, matrix: int, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of a stored matrix of codes as it is, and the scales of the blocks that it lies in."""
    name = tensor_name(source, matrix)
    format = checkpoint.tensors[name].format
    per_item = format.codes_per_item
    items = columns[0] // per_item, -(-columns[1] // per_item)
    stacked = matrix if source.stacked else None
    codes = np.ascontiguousarray(checkpoint.read_rows(name, *rows, matrix=stacked, columns=items))
    if format.nan is not None and has_nan(codes, format.nan):
        _refuse_nan(checkpoint, format, name)
    return codes, _read_scales(checkpoint, source, matrix, rows, columns)


def _read_scales(
    checkpoint: Checkpoint, source: Source, matrix: int, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """The scales of the blocks that a rectangle of a stored matrix of codes lies in."""
    format = checkpoint.tensors[tensor_name(source, matrix)].format
    height, width = format.scale_block(source.transposed)
    assert source.scales
    name, stacked = tensor_name(source.scales, matrix), matrix if source.stacked else None
    scales = checkpoint.read_scales(name, rows[0] // height, -(-rows[1] // height), matrix=stacked)
    scales = scales[:, columns[0] // width : -(-columns[1] // width)]
    bad = ~np.isfinite(format.decode_scale(scales))
    if bad.any():
        tensor = checkpoint.tensors[name]
        raise InputError(f"{tensor.path}: {tensor}: holds {scales[bad][0]}, a scale must be finite")
    return scales


def _refuse_nan(checkpoint: Checkpoint, format: Format, name: str) -> None:
    assert format.nan is not None
    tensor, nans = checkpoint.tensors[name], f"{format.nan:#x} or {format.nan | 0x80:#x}"
    raise InputError(f"{tensor.path}: {tensor}: holds NaN (code {nans}), a weight must be a number")
