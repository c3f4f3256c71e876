"""Packing policies: which format each matrix of a model becomes, whatever its checkpoint stores it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ellm.dsl.grammar import GRAMMAR, Exempt
from ellm.dsl.graph import Graph
from ellm.dsl.tensor import Weight
from ellm.kernels.formats import DTYPES, FORMATS, PLAIN, RAW, Format, expanded, packings
from ellm.system.errors import InputError

_ENDS = "head="


@dataclass(frozen=True)
class Use:
    """What a matrix is to its model."""

    end: bool  # the embedding or the head
    router: bool
    sparse: bool  # the model has experts


Policy = Callable[[Weight, Use], str]
"""The name of the format that a matrix is packed in."""


def as_stored(weight: Weight, use: Use) -> str:
    """Every matrix as the checkpoint has it."""
    return weight.precision


def packed_as(format: Format, ends: Format | None = None) -> Policy:
    """A policy: every matrix in this format, but routers, and head and embedding, which are in `ends` or as stored.

    So are those that checkpoints of the format keep in more bits, and those whose codes have as few bits as its own.
    Nothing is exempt from bf16.
    """

    def policy(weight: Weight, use: Use) -> str:
        if format is PLAIN and (not ends or not use.end):
            return PLAIN.name
        wanted = ends if use.end else None if use.router else format
        if wanted is None or (wanted.stored.experts_only and use.sparse and not weight.experts):
            return weight.precision
        stored = FORMATS[weight.precision]
        small = stored.k_per_scale and stored.bits <= wanted.bits
        return stored.name if small and wanted is not PLAIN else wanted.name

    return policy


def packing_of(dtype: str) -> Policy:
    """The policy of a dtype as users write it: "q4", or "q4,head=q8", also for the head and the embedding.

    Raises InputError.
    """
    first, *rest = dtype.split(",")
    ends = [part.removeprefix(_ENDS) for part in rest]
    if len(rest) > 1 or any(not part.startswith(_ENDS) for part in rest):
        raise InputError(f"dtype {dtype!r} is neither NAME nor NAME,{_ENDS}NAME")
    return packed_as(_named(first), *map(_named, ends))


def packings_of(dtype: str | None, isa: str) -> Mapping[str, str]:
    """Which formats a program of a dtype, as users write it, holds in others of fewer bits: where that pays on the ISA.

    A dtype that is such a format asks for it on any. Raises InputError.
    """
    names = [] if dtype is None else [part.removeprefix(_ENDS) for part in dtype.split(",")]
    if RAW in names:
        return {}
    asked = [DTYPES[name] for name in names if name in DTYPES and DTYPES[name].packs]
    return {format.packs: format.name for format in asked} or packings(isa)


def _named(name: str) -> Format:
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is unknown: choose one of {', '.join(DTYPES)}")
    return FORMATS[DTYPES[name].numbers]


def assign(graph: Graph, policy: Policy) -> None:
    """Say of every matrix of a graph what it is packed in."""
    exempt = dict(_exempt(graph))
    sparse = any(weight.experts for _, node in graph.items() for weight in node.weights.values())
    for key, node in list(graph.items()):
        use = Use(exempt.get(key) is Exempt.OWN, exempt.get(key) is Exempt.INPUT, sparse)
        weights = {
            role: weight if len(weight.shape) < 2 or role == "bias" else _packed(weight, policy(weight, use))
            for role, weight in node.weights.items()
        }
        graph.put(key, replace(node, weights=weights))


def _packed(weight: Weight, name: str) -> Weight:
    """In the format of this name; if that is how it is stored, transposed, and its scales cannot be turned, without."""
    format = FORMATS[name]
    kept = name != weight.precision or format.keeps(weight.transposed)
    return replace(weight, packed=name if kept else expanded(format).name)


def _exempt(graph: Graph) -> Iterator[tuple[int, Exempt]]:
    """The nodes whose weights are exempt, by their own form or by that of what reads them, and which of the two."""
    for key, node in graph.items():
        exempt = GRAMMAR[node.op].exempt
        if exempt is Exempt.INPUT:
            key = node.inputs[0]
            while not graph.node(key).weights and graph.node(key).inputs:  # past softmax or sigmoid
                key = graph.node(key).inputs[0]
        if exempt is not Exempt.NONE:
            yield key, exempt
