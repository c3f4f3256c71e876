"""The weights region: which checkpoint rows become which packed columns, and at which offset.

An entry says how one packed weight, or a bank of equally shaped ones (experts, heads), is made of checkpoint tensors;
`ellm.checkpoint.loader` documents its keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ellm.dsl.tensor import Weight
from ellm.dsl.tiling import COLUMNS, depth_tiles, tiles
from ellm.kernels.formats import FORMATS, PLAIN, Format

PAGE = 4096
LINE = 64
Run = tuple[int, ...]
"""(source, first row, rows, first packed column), and the step from row to row if it is not 1."""


@dataclass(eq=False)
class Packed:
    """One packed weight, or bank. `entry` is what the loader reads; `offset` is set when the region is laid out."""

    entry: dict[str, Any]
    offset: int = -1

    @property
    def bytes(self) -> int:
        """Size in the weights region."""
        return self.entry["bytes"]

    @property
    def format(self) -> Format:
        """What its tiles are in."""
        return FORMATS[self.entry["format"]]

    @property
    def stride(self) -> int:
        """Bytes from one matrix of a bank to the next; 0 if it is none."""
        return self.entry.get("bank_stride", 0)


@functools.cache
def whole(rows: int) -> tuple[Run, ...]:
    """All rows of one source, in order."""
    return ((0, 0, rows, 0),)


@functools.cache
def heads(counts: tuple[int, ...], head_dim: int) -> tuple[Run, ...]:
    """Sources of `counts[i]` heads each, one after the other, every head padded to whole tiles."""
    head_columns = COLUMNS * tiles(head_dim)
    runs: list[Run] = []
    column = 0
    for source, count in enumerate(counts):
        if head_columns == head_dim:
            runs.append((source, 0, count * head_dim, column))
        else:
            runs += [(source, i * head_dim, head_dim, column + i * head_columns) for i in range(count)]
        column += count * head_columns
    return tuple(runs)


@functools.cache
def interleaved(width: int) -> tuple[Run, ...]:
    """Two sources of `width` rows: tile 2i has rows 16i .. of the first, tile 2i + 1 those of the second."""
    return tuple(
        (source, row, min(COLUMNS, width - row), 2 * row + source * COLUMNS)
        for row in range(0, width, COLUMNS)
        for source in (0, 1)
    )


@functools.cache
def _stored_runs(
    weights: tuple[Weight | None, ...], numbers: tuple[int, ...], runs: tuple[Run, ...]
) -> tuple[Run, ...]:
    """Runs over the rows that weights show, as runs over those of the tensors `numbers` that store them."""
    found: list[Run] = []
    for source, first, rows, column in runs:
        weight = weights[source]
        if weight is None:
            continue
        part = weight.part
        if part is None:
            found.append((numbers[source], first, rows, column))
            continue
        while rows:
            within = first % part.rows
            count = min(rows, part.rows - within)
            row = first // part.rows * part.period + part.first + part.step * within
            run = (numbers[source], row, count, column)
            found.append(run if part.step == 1 else (*run, part.step))
            first, rows, column = first + count, rows - count, column + count
    return tuple(found)


@dataclass
class Region:
    """Collects packed weights; one that is asked for twice (a tied head) is stored once."""

    packed: dict[tuple, Packed] = field(default_factory=dict)

    def tiles(self, weights: Sequence[Weight], runs: tuple[Run, ...], k: int, n_tiles: int, task_tiles: int) -> Packed:
        """Tiles [n_tiles][ceil(k / 32)] of weights [rows, k], a bank of them if they are of experts."""
        sources, numbers = _sources([_source(weight, math.prod(weight.shape) // k, k) for weight in weights])
        entry = self._matrix(weights, sources, _stored_runs(tuple(weights), numbers, runs), k, n_tiles, task_tiles)
        if weights[0].experts:
            entry |= _bank(weights[0].experts, entry["bytes"], PAGE)
        return self._add(("tiles", *weights, runs, k, task_tiles), entry)

    def heads(self, weight: Weight, n_tiles: int, task_tiles: int) -> Packed:
        """A bank of tiles with one matrix [n, k] for each head of weight [heads, n, k]."""
        count, n, k = weight.shape
        source = _source(weight, count * n, k) if not weight.transposed else _source(weight, n, count * k)
        cut = weight.k_part if weight.transposed else weight.part
        seen = k if weight.transposed else n
        source["head_rows"] = cut.period if cut else seen
        first = cut.first if cut else 0
        if weight.transposed and first:
            source["first_k"] = first
        runs = ((0, 0 if weight.transposed else first, n, 0),)
        entry = self._matrix([weight], [source], runs, k, n_tiles, task_tiles)
        if weight.transposed:
            entry["format"] = _aligned(entry["format"], source["head_rows"], first)
        entry["bytes"] = n_tiles * FORMATS[entry["format"]].column_bytes(depth_tiles(k))
        entry |= _bank(count, entry["bytes"], PAGE) | {"one_group": True}
        return self._add(("heads", weight, task_tiles), entry)

    def vector(self, weights: Sequence[Weight | None], runs: tuple[Run, ...], width: int) -> Packed:
        """`width` f32 numbers, rounded up to 16; the runs of an absent weight stay zero."""
        present = [weight for weight in weights if weight is not None]
        sources, places = _sources([_vector_source(weight) for weight in present])
        where = iter(places)
        numbers = tuple(-1 if weight is None else next(where) for weight in weights)
        entry: dict[str, Any] = {
            "name": _join([weight.name for weight in present]),
            "layout": "vector",
            "bytes": 4 * COLUMNS * tiles(width),
            "sources": sources,
            "runs": _stored_runs(tuple(weights), numbers, runs),
        }
        if present[0].experts:
            entry |= _bank(present[0].experts, entry["bytes"], LINE)
        return self._add(("vector", *weights, runs), entry)

    def constant(self, name: str, values: tuple[float, ...]) -> Packed:
        """f32 numbers that the compiler computed."""
        size = 4 * len(values)
        entry = {"name": name, "layout": "constant", "bytes": size, "sources": [], "runs": (), "values": list(values)}
        return self._add(("constant", values), entry)

    def place(self) -> int:
        """Give every weight its offset, tiles on page boundaries before everything else. Returns the region's bytes."""
        end = 0
        for layout, alignment in (("tiles", PAGE), ("vector", LINE), ("constant", LINE)):
            for packed in self.packed.values():
                if packed.entry["layout"] == layout:
                    packed.offset = _round_up(end, alignment)
                    end = packed.offset + packed.bytes
        return _round_up(end, PAGE)

    def entries(self) -> list[dict[str, Any]]:
        """What `Program.meta["weights"]` holds: plain lists and dicts, in order of offset."""
        placed = sorted(self.packed.values(), key=lambda packed: packed.offset)
        return [packed.entry | {"offset": packed.offset, "runs": _lists(packed.entry["runs"])} for packed in placed]

    def _matrix(
        self,
        weights: Sequence[Weight],
        sources: list[dict[str, Any]],
        runs: tuple[Run, ...],
        k: int,
        n_tiles: int,
        task_tiles: int,
    ) -> dict[str, Any]:
        k_tiles = depth_tiles(k)
        precision = weights[0].precision
        return {
            "name": _join([weight.name for weight in weights]),
            "layout": "tiles",
            "format": precision,
            "bytes": n_tiles * FORMATS[precision].column_bytes(k_tiles),
            "sources": sources,
            "runs": runs,
            "k": k,
            "k_tiles": k_tiles,
            "n_tiles": n_tiles,
            "task_tiles": task_tiles,
        }

    def _add(self, key: tuple, entry: dict[str, Any]) -> Packed:
        return self.packed.setdefault(key, Packed(entry))


def _bank(count: int, matrix_bytes: int, alignment: int) -> dict[str, int]:
    stride = _round_up(matrix_bytes, alignment)
    return {"experts": count, "bank_stride": stride, "bytes": count * stride}


def _aligned(precision: str, *first_columns: int) -> str:
    """The format to pack in: bf16 if the scales' blocks of the stored format do not begin where the matrices do."""
    block = FORMATS[precision].k_per_scale or 1
    return PLAIN.name if any(first % block for first in first_columns) else precision


def _source(weight: Weight, rows: int, k: int) -> dict[str, Any]:
    """The tensor that stores a weight [rows, k]: its name, shape and scales."""
    rows, k = (
        seen if part is None else seen // part.rows * part.period
        for seen, part in ((rows, weight.part), (k, weight.k_part))
    )
    format = FORMATS[weight.precision]
    stack = [weight.experts] if weight.stacked else []
    shape = stack + format.source_shape(rows, k, weight.transposed)
    source: dict[str, Any] = {"name": weight.name + format.stored.suffix, "shape": shape}
    if weight.stacked:
        source["stacked"] = True
    if format.turned(weight.transposed):
        source["transposed"] = True
    if format.k_per_scale:
        shape = stack + format.scales_shape(rows, k, weight.transposed)
        source["scales"] = {"name": weight.name + format.stored.scales, "shape": shape}
    return source


def _vector_source(weight: Weight) -> dict[str, Any]:
    size = weight.size if weight.part is None else weight.size // weight.part.rows * weight.part.period
    shape = [weight.experts, size] if weight.stacked else [size]
    return {"name": weight.name, "shape": shape} | ({"stacked": True} if weight.stacked else {})


def _sources(given: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Sources without repetition, and the number in them of each given one."""
    different = [source for number, source in enumerate(given) if source not in given[:number]]
    return different, tuple(different.index(source) for source in given)


@functools.cache
def _lists(runs: tuple[Run, ...]) -> list[list[int]]:
    """Runs as JSON has them; layers of the same shape share one list."""
    return [list(run) for run in runs]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _join(names: Sequence[str]) -> str:
    """Print ["a.q_proj.weight", "a.k_proj.weight"] as "a.{q_proj,k_proj}.weight"."""
    if len(set(names)) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) > 1:
        return "{" + ",".join(names) + "}"
    columns = zip(*parts, strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "{" + ",".join(part) + "}" for part in columns)
