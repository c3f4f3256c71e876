"""What a model is written with: values that record operators, weights by their path, and caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import EllipsisType

from ellm.dsl.errors import GraphError, ShapeError
from ellm.dsl.graph import Graph
from ellm.dsl.source import error_line, model_line
from ellm.dsl.tensor import Dim, Expert, Part, Scope, Shape, Weight, text
from ellm.kernels.formats import PLAIN

Precision = Callable[[str], str]
"""What the checkpoint stores a tensor in, by its name: the name of one of `ellm.kernels.formats`."""


_WHOLE = Weight("", ())


@dataclass(frozen=True)
class Value:
    """The result of an operator, with a shape such as [T, 16, 128]."""

    graph: Graph
    key: int

    @property
    def shape(self) -> Shape:
        """Dims, rows first."""
        return self.graph.node(self.key).shape

    def __add__(self, other: Value) -> Value:
        return Value(self.graph, self.graph.add_op("add", (self.key, other.key)))

    def __getitem__(self, index: tuple[EllipsisType, slice]) -> Value:
        """`x[..., begin:end]`: these columns of the last dim."""
        columns = index[1] if isinstance(index, tuple) and len(index) == 2 and index[0] is ... else None
        if not isinstance(columns, slice) or columns.step is not None:
            raise GraphError(f"{error_line()}: {self}: only x[..., begin:end] can be taken, not {index!r}")
        width = self.shape[-1]
        begin, end, _ = columns.indices(width) if isinstance(width, int) else (0, 0, 1)
        return Value(self.graph, self.graph.add_op("slice", (self.key,), attributes={"begin": begin, "end": end}))

    def __str__(self) -> str:
        return f"{self.graph.node(self.key).op}{text(self.shape)}"


@dataclass(frozen=True)
class Routes:
    """The experts that each row goes to, in order of choice, and what their results weigh: [T, k]."""

    value: Value
    experts: int


@dataclass(frozen=True)
class Weights:
    """A path into the checkpoint: `w.self_attn.q_proj[h, k, d]` is "self_attn.q_proj.weight", seen as [h, k, d].

    An index is a shape, output dims before contracted dims. An attribute after an index of one number makes that number
    a place in a list of modules: `w.layers[3].mlp` is "layers.3.mlp". With the Expert e that `experts` gives to its
    body, `w.experts[e].up_proj[n, d]` is one tensor for each expert, `w.experts.up_proj[e, n, d]` one for all.
    """

    _path: str = ""
    _shape: tuple[int, ...] | None = None
    _view: Weight = _WHOLE
    _precision: Precision | None = None

    def __getattr__(self, name: str) -> Weights:
        if name.startswith("_"):
            raise AttributeError(name)
        index = "" if self._shape is None else "." + ".".join(str(number) for number in self._shape)
        view = self._view
        if self._shape and not view.scope:
            view = replace(view, scope=Scope(self._path.rpartition(".")[2], self._shape[0]))
        return replace(self, _path=f"{self._path}{index}.{name}".lstrip("."), _shape=None, _view=view)

    def __getitem__(self, shape: int | Expert | tuple[int | Expert, ...]) -> Weights:
        if isinstance(shape, Expert):
            return replace(self, _path=f"{self._path}.{shape}", _view=replace(self._view, experts=shape.count))
        first, *rest = shape if isinstance(shape, tuple) else (shape,)
        dims = tuple(dim for dim in rest if not isinstance(dim, Expert))
        if len(dims) < len(rest):
            raise GraphError(f"{error_line()}: weight {self._path}: an expert's index comes first")
        if isinstance(first, Expert):
            return replace(self, _shape=dims, _view=replace(self._view, experts=first.count, stacked=True))
        return replace(self, _shape=(first, *dims))

    @property
    def transposed(self) -> Weights:
        """A tensor that the checkpoint stores [..., contracted, output], seen with its last two dims exchanged."""
        shape = self._dims("weight")
        if len(shape) < 2:
            raise GraphError(f"{error_line()}: weight {self._path}{text(shape)}: needs two dims to be transposed")
        old = self._view
        view = replace(old, transposed=not old.transposed, part=old.k_part, k_part=old.part)
        return replace(self, _shape=(*shape[:-2], shape[-1], shape[-2]), _view=view)

    def split(self, *sizes: int, dim: int = 0) -> tuple[Weights, ...]:
        """Views of a tensor that the checkpoint stores joined, cut along an output dim. Raises ShapeError."""
        shape = self._whole()
        if sum(sizes) != shape[dim]:
            raise ShapeError(f"{error_line()}: weight {self._path}{text(shape)}: dim {dim} is not {text(sizes)} in sum")
        inner = 1  # stored rows to one step along dim; the last dim is contracted
        for size in shape[dim + 1 : -1]:
            inner *= size
        parts, first = [], 0
        for size in sizes:
            part = Part(shape[dim] * inner, size * inner, first * inner)
            view = replace(self._view, part=part)
            parts.append(replace(self, _shape=(*shape[:dim], size, *shape[dim + 1 :]), _view=view))
            first += size
        return tuple(parts)

    def interleaved(self, count: int) -> tuple[Weights, ...]:
        """Views of a tensor [rows, k] of which view i has rows i, i + count, ... Raises ShapeError."""
        rows, *rest = self._whole()
        if rows % count or len(rest) != 1:
            raise ShapeError(f"{error_line()}: weight {self._path}{text((rows, *rest))}: rows are not {count} views")
        views = [replace(self._view, part=Part(rows, rows // count, first, count)) for first in range(count)]
        return tuple(replace(self, _shape=(rows // count, *rest), _view=view) for view in views)

    def __call__(self, part: str, dims: int | None = None) -> Weight:
        """Return a tensor with the first `dims` dims of the shape. Raises GraphError.

        `part` is "weight", "bias", or "" for a tensor of the path's own name. A stacked tensor bears the path's name,
        its bias "<path>_bias".
        """
        if self._view.stacked:
            name = self._path if part in ("", "weight") else f"{self._path}_{part}"
        else:
            name = f"{self._path}.{part}".rstrip(".")
        precision = self._precision(name) if self._precision and part != "bias" else PLAIN.name
        view = replace(self._view, transposed=False) if part == "bias" else self._view
        return replace(view, name=name, shape=self._dims(part)[:dims], precision=precision, line=model_line())

    def _dims(self, part: str) -> tuple[int, ...]:
        name = f"{self._path}.{part}".rstrip(".")
        if self._shape is None:
            raise GraphError(f"{error_line()}: weight {name} has no shape: write it as [dims]")
        for dim in self._shape:
            if not isinstance(dim, int) or dim <= 0:
                raise GraphError(f"{error_line()}: weight {name}: dim {dim!r} is not a positive int")
        return self._shape

    def _whole(self) -> tuple[int, ...]:
        shape = self._dims("weight")
        if self._view.part or self._view.k_part or len(shape) < 2:
            raise GraphError(f"{error_line()}: weight {self._path}{text(shape)}: only whole matrices can be cut")
        return shape


@dataclass(frozen=True)
class Cached:
    """The keys or the values [S, kv heads, dim] of every position so far of each row's sequence."""

    value: Value
    part: str


class Cache:
    """The rows of one layer that later steps see. Sequences and positions live here, not in the model."""

    def __init__(self, name: str, rows: Dim):
        self.name, self.rows = name, rows

    def append(self, *, k: Value, v: Value | int) -> dict[str, Cached]:
        """Store k [T, kv heads, dim] and v [T, kv heads, value dim] at their rows' positions; return them with all that
        came before.

        If v is a number, the values are the first v dims of the keys, and nothing else is stored.
        """
        attributes = {"cache": self.name, "rows": self.rows}
        if isinstance(v, Value):
            if k.shape[-1] != v.shape[-1]:
                attributes["value_dim"] = v.shape[-1]
            value = Value(k.graph, k.graph.add_op("append", (k.key, v.key), attributes=attributes))
        else:
            value = Value(k.graph, k.graph.add_op("append", (k.key,), attributes=attributes | {"value_dim": v}))
        return {"k": Cached(value, "k"), "v": Cached(value, "v")}


class Caches:
    """One cache a layer: `caches[3]`."""

    def __init__(self, rows: Dim):
        self._rows = rows

    def __getitem__(self, layer: int) -> Cache:
        return Cache(f"cache.{layer}", self._rows)
