"""What a model is written with: values that record operators, weights by their path, and caches."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl.errors import GraphError
from ellm.dsl.graph import Graph
from ellm.dsl.source import model_line
from ellm.dsl.tensor import Dim, Shape, Weight, text


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

    def __str__(self) -> str:
        return f"{self.graph.node(self.key).op}{text(self.shape)}"


class Weights:
    """A path into the checkpoint: `w.self_attn.q_proj[h, k, d]` is "self_attn.q_proj.weight", seen as [h, k, d].

    An index is a shape, output dims before contracted dims. An attribute after an index of one number makes that number
    a place in a list of modules: `w.layers[3].mlp` is "layers.3.mlp".
    """

    def __init__(self, path: str = "", shape: tuple[int, ...] | None = None):
        self._path, self._shape = path, shape

    def __getattr__(self, name: str) -> Weights:
        if name.startswith("_"):
            raise AttributeError(name)
        index = "" if self._shape is None else "." + ".".join(str(number) for number in self._shape)
        return Weights(f"{self._path}{index}.{name}".lstrip("."))

    def __getitem__(self, shape: int | tuple[int, ...]) -> Weights:
        return Weights(self._path, shape if isinstance(shape, tuple) else (shape,))

    def __call__(self, part: str, dims: int | None = None) -> Weight:
        """Return the tensor `part` ("weight" or "bias") with the first `dims` dims of the shape. Raises GraphError."""
        if self._shape is None:
            raise GraphError(f"{model_line()}: weight {self._path}.{part} has no shape: write it as [dims]")
        for dim in self._shape:
            if not isinstance(dim, int) or dim <= 0:
                raise GraphError(f"{model_line()}: weight {self._path}.{part}: dim {dim!r} is not a positive int")
        return Weight(f"{self._path}.{part}", self._shape[:dims])


@dataclass(frozen=True)
class Cached:
    """The keys or the values [S, kv heads, head dim] of every position so far of each row's sequence."""

    value: Value
    part: str


class Cache:
    """The rows of one layer that later steps see. Sequences and positions live here, not in the model."""

    def __init__(self, name: str, rows: Dim):
        self.name, self.rows = name, rows

    def append(self, *, k: Value, v: Value) -> dict[str, Cached]:
        """Store k and v [T, kv heads, head dim] at their rows' positions; return them with all that came before."""
        attributes = {"cache": self.name, "rows": self.rows}
        value = Value(k.graph, k.graph.add_op("append", (k.key, v.key), attributes=attributes))
        return {"k": Cached(value, "k"), "v": Cached(value, "v")}


class Caches:
    """One cache a layer: `caches[3]`."""

    def __init__(self, rows: Dim):
        self._rows = rows

    def __getitem__(self, layer: int) -> Cache:
        return Cache(f"cache.{layer}", self._rows)
