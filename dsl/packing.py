"""The weights region: which checkpoint rows become which packed columns, and at which offset."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ellm.dsl.tensor import Weight
from ellm.dsl.tiling import COLUMNS, TILE_BYTES, depth_tiles, tiles

PAGE = 4096
LINE = 64
Run = tuple[int, int, int, int]
"""(source, first row, rows, first packed column)."""


@dataclass(eq=False)
class Packed:
    """One packed weight. `entry` is what the loader reads; `offset` is set when the region is laid out."""

    entry: dict[str, Any]
    offset: int = -1

    @property
    def bytes(self) -> int:
        """Size in the weights region."""
        return self.entry["bytes"]


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


@dataclass
class Region:
    """Collects packed weights; one that is asked for twice (a tied head) is stored once."""

    packed: dict[tuple, Packed] = field(default_factory=dict)

    def tiles(self, sources: Sequence[Weight], runs: tuple[Run, ...], k: int, n_tiles: int, task_tiles: int) -> Packed:
        """Tiles [n_tiles][ceil(k / 32)] of sources [rows, k]."""
        k_tiles = depth_tiles(k)
        entry = {
            "name": _join([source.name for source in sources]),
            "layout": "tiles",
            "bytes": n_tiles * k_tiles * TILE_BYTES,
            "sources": [{"name": source.name, "shape": [source.size // k, k]} for source in sources],
            "runs": runs,
            "k": k,
            "k_tiles": k_tiles,
            "n_tiles": n_tiles,
            "task_tiles": task_tiles,
        }
        return self._add(("tiles", *sources, runs, k, task_tiles), entry)

    def vector(self, sources: Sequence[Weight | None], runs: tuple[Run, ...], width: int) -> Packed:
        """`width` f32 numbers, rounded up to 16; the runs of an absent source stay zero."""
        present = [source for source in sources if source is not None]
        number = {index: present.index(source) for index, source in enumerate(sources) if source is not None}
        entry = {
            "name": _join([source.name for source in present]),
            "layout": "vector",
            "bytes": 4 * COLUMNS * tiles(width),
            "sources": [{"name": source.name, "shape": [source.size]} for source in present],
            "runs": tuple((number[run[0]], *run[1:]) for run in runs if run[0] in number),
        }
        return self._add(("vector", *sources, runs), entry)

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

    def _add(self, key: tuple, entry: dict[str, Any]) -> Packed:
        return self.packed.setdefault(key, Packed(entry))


@functools.cache
def _lists(runs: tuple[Run, ...]) -> list[list[int]]:
    """Runs as JSON has them; layers of the same shape share one list."""
    return [list(run) for run in runs]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _join(names: Sequence[str]) -> str:
    """Print ["a.q_proj.weight", "a.k_proj.weight"] as "a.{q_proj,k_proj}.weight"."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) > 1:
        return "{" + ",".join(names) + "}"
    columns = zip(*parts, strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "{" + ",".join(part) + "}" for part in columns)
