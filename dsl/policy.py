"""Packing policies: which format each matrix of a model becomes, whatever its checkpoint stores it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ellm.dsl.grammar import GRAMMAR, Exempt
from ellm.dsl.graph import Graph
from ellm.dsl.tensor import Weight
from ellm.kernels.formats import FORMATS, PLAIN, Format


@dataclass(frozen=True)
class Use:
    """What a matrix is to its model."""

    exempt: bool  # head, embedding or router, which checkpoints of fewer bits keep in more
    sparse: bool  # the model has experts


Policy = Callable[[Weight, Use], str]
"""The name of the format that a matrix is packed in."""


def as_stored(weight: Weight, use: Use) -> str:
    """Every matrix as the checkpoint has it."""
    return weight.precision


def packed_as(format: Format) -> Policy:
    """A policy: every matrix in this format, but those that checkpoints of it keep in more bits, which are as stored.

    Nothing is exempt from bf16.
    """

    def policy(weight: Weight, use: Use) -> str:
        kept = use.exempt or (format.stored.experts_only and use.sparse and not weight.experts)
        return weight.precision if kept and format is not PLAIN else format.name

    return policy


def assign(graph: Graph, policy: Policy) -> None:
    """Say of every matrix of a graph what it is packed in."""
    exempt = set(_exempt(graph))
    sparse = any(weight.experts for _, node in graph.items() for weight in node.weights.values())
    for key, node in list(graph.items()):
        use = Use(key in exempt, sparse)
        weights = {
            role: weight if len(weight.shape) < 2 or role == "bias" else _packed(weight, policy(weight, use))
            for role, weight in node.weights.items()
        }
        graph.put(key, replace(node, weights=weights))


def _packed(weight: Weight, name: str) -> Weight:
    """In the format of this name, or bf16 if the scales of that cannot be turned with what is stored transposed."""
    return replace(weight, packed=name if FORMATS[name].keeps(weight.transposed) else PLAIN.name)


def _exempt(graph: Graph) -> Iterator[int]:
    """The nodes whose weights are exempt, by their own form or by that of what reads them."""
    for key, node in graph.items():
        if GRAMMAR[node.op].exempt is Exempt.OWN:
            yield key
        elif GRAMMAR[node.op].exempt is Exempt.INPUT:
            source = node.inputs[0]
            while not graph.node(source).weights and graph.node(source).inputs:  # past softmax or sigmoid
                source = graph.node(source).inputs[0]
            yield source
