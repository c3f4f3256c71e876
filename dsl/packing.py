"""The weights region: which checkpoint rows become which packed columns, and at which offset.

A `WeightEntry` says how one packed weight, or a bank of equally shaped ones (experts, heads), is made of tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from ellm.dsl.tensor import Weight
from ellm.dsl.tiling import COLUMNS, depth_tiles, tiles
from ellm.kernels.formats import FORMATS, Format, expanded
from ellm.scheduler.contents import NamedTensor, Run, Source, WeightEntry

PAGE = 4096
LINE = 64
_ALIGNMENTS = {"tiles": PAGE, "vector": LINE, "constant": LINE}  # in the order in which they lie in a part


@dataclass(eq=False)
class Packed:
    """One packed weight, or bank. `entry` is what the loader reads, but for its offset, which `place` sets."""

    entry: WeightEntry
    part: int  # of the region, by the order in which they lie
    offset: int = -1

    @property
    def bytes(self) -> int:
        """Size in the weights region."""
        return self.entry.bytes

    @property
    def format(self) -> Format:
        """What its tiles are in."""
        return self.entry.packed

    @property
    def stride(self) -> int:
        """Bytes from one matrix of a bank to the next; 0 if it is none."""
        return self.entry.bank_stride


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
    """Collects packed weights; one that is asked for twice (a tied head) is stored once.

    `packings` says which format holds the numbers of another one in fewer bits; it is used where padding allows.
    """

    packings: Mapping[str, str] = field(default_factory=dict)
    packed: dict[tuple, Packed] = field(default_factory=dict)
    part: int = 0

    def behind(self) -> Region:
        """Collects into the same region what lies behind all that others need, which so is where it is without that."""
        return replace(self, part=self.part + 1)

    def tiles(self, weights: Sequence[Weight], runs: tuple[Run, ...], k: int, n_tiles: int, task_tiles: int) -> Packed:
        """Tiles [n_tiles][ceil(k / 32)] of weights [rows, k], a bank of them if they are of experts."""
        sources, numbers = _sources([_source(weight, math.prod(weight.shape) // k, k) for weight in weights])
        stored = _stored_runs(tuple(weights), numbers, runs)
        entry = self._matrix(weights, sources, stored, k, n_tiles, task_tiles, weights[0].packed)
        if weights[0].experts:
            entry = _bank(entry, weights[0].experts, PAGE)
        return self._add(("tiles", *weights, runs, k, task_tiles), entry)

    def heads(self, weight: Weight, n_tiles: int, task_tiles: int) -> Packed:
        """A bank of tiles with one matrix [n, k] for each head of weight [heads, n, k]."""
        count, n, k = weight.shape
        source = _source(weight, count * n, k) if not weight.transposed else _source(weight, n, count * k)
        cut = weight.k_part if weight.transposed else weight.part
        head_rows = cut.period if cut else k if weight.transposed else n
        first = cut.first if cut else 0
        source = replace(source, head_rows=head_rows, first_k=first if weight.transposed else 0)
        runs = ((0, 0 if weight.transposed else first, n, 0),)
        format = _aligned(weight, head_rows, first) if weight.transposed else weight.packed
        entry = self._matrix([weight], (source,), runs, k, n_tiles, task_tiles, format)
        return self._add(("heads", weight, task_tiles), replace(_bank(entry, count, PAGE), one_group=True))

    def vector(self, weights: Sequence[Weight | None], runs: tuple[Run, ...], width: int) -> Packed:
        """`width` f32 numbers, rounded up to 16; the runs of an absent weight stay zero."""
        present = [weight for weight in weights if weight is not None]
        sources, places = _sources([_vector_source(weight) for weight in present])
        where = iter(places)
        numbers = tuple(-1 if weight is None else next(where) for weight in weights)
        entry = WeightEntry(
            name=_join([weight.name for weight in present]),
            layout="vector",
            bytes=4 * COLUMNS * tiles(width),
            layer=present[0].scope.layer,
            sources=sources,
            runs=_stored_runs(tuple(weights), numbers, runs),
        )
        if present[0].experts:
            entry = _bank(entry, present[0].experts, LINE)
        return self._add(("vector", *weights, runs), entry)

    def constant(self, name: str, values: tuple[float, ...]) -> Packed:
        """f32 numbers that the compiler computed."""
        return self._add(("constant", values), WeightEntry(name, "constant", 4 * len(values), values=values))

    def place(self) -> int:
        """Give every weight its offset, in a part tiles on page boundaries first. Returns the region's bytes."""
        end = 0
        parts = sorted({packed.part for packed in self.packed.values()})
        for part, (layout, alignment) in product(parts, _ALIGNMENTS.items()):
            for packed in self.packed.values():
                if (packed.part, packed.entry.layout) == (part, layout):
                    packed.offset = _round_up(end, alignment)
                    end = packed.offset + packed.bytes
        return _round_up(end, PAGE)

    def entries(self) -> tuple[WeightEntry, ...]:
        """All of them in order of offset."""
        placed = sorted(self.packed.values(), key=lambda packed: packed.offset)
        return tuple(replace(packed.entry, offset=packed.offset) for packed in placed)

    def _matrix(
        self,
        weights: Sequence[Weight],
        sources: tuple[Source, ...],
        runs: tuple[Run, ...],
        k: int,
        n_tiles: int,
        task_tiles: int,
        format: str,
    ) -> WeightEntry:
        k_tiles = depth_tiles(k)
        smaller = self.packings.get(format, format)
        if FORMATS[smaller].column_bytes(k_tiles) < FORMATS[format].column_bytes(k_tiles):
            format = smaller
        return WeightEntry(
            name=_join([weight.name for weight in weights]),
            layout="tiles",
            bytes=n_tiles * FORMATS[format].column_bytes(k_tiles),
            layer=weights[0].scope.layer,
            sources=sources,
            runs=runs,
            format=format,
            k=k,
            k_tiles=k_tiles,
            n_tiles=n_tiles,
            task_tiles=task_tiles,
        )

    def _add(self, key: tuple, entry: WeightEntry) -> Packed:
        return self.packed.setdefault(key, Packed(entry, self.part))


def _bank(entry: WeightEntry, count: int, alignment: int) -> WeightEntry:
    stride = _round_up(entry.bytes, alignment)
    return replace(entry, experts=count, bank_stride=stride, bytes=count * stride)


def _aligned(weight: Weight, *first_columns: int) -> str:
    """The format to pack in: without scales if blocks of stored ones, to be kept, do not begin where matrices do."""
    format = FORMATS[weight.packed]
    block = format.stored.blocks.k if format.stored.blocks else format.k_per_scale or 1
    kept = weight.packed == weight.precision
    return expanded(format).name if kept and any(first % block for first in first_columns) else weight.packed


def _source(weight: Weight, rows: int, k: int) -> Source:
    """The tensor that stores a weight [rows, k]: its name, shape and scales."""
    rows, k = (
        seen if part is None else seen // part.rows * part.period
        for seen, part in ((rows, weight.part), (k, weight.k_part))
    )
    format = FORMATS[weight.precision]
    scales = None
    if format.stored.scales:
        shape = format.scales_shape(rows, k, weight.transposed)
        scales = NamedTensor(weight.name + format.stored.scales, _stack(weight, *shape))
    return Source(
        name=weight.name + format.stored.suffix,
        shape=_stack(weight, *format.source_shape(rows, k, weight.transposed)),
        stacked=weight.stacked,
        transposed=format.turned(weight.transposed),
        format=format.name,
        scales=scales,
        line=weight.line,
    )


def _vector_source(weight: Weight) -> Source:
    size = weight.size if weight.part is None else weight.size // weight.part.rows * weight.part.period
    return Source(weight.name, _stack(weight, size), weight.stacked, line=weight.line)


def _stack(weight: Weight, *shape: int) -> tuple[int, ...]:
    return (weight.experts, *shape) if weight.stacked else shape


def _sources(given: list[Source]) -> tuple[tuple[Source, ...], tuple[int, ...]]:
    """Sources without repetition, and the number in them of each given one."""
    different = tuple(dict.fromkeys(given))
    return different, tuple(different.index(source) for source in given)


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
