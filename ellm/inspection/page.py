"""The page of a program."""

from __future__ import annotations

from ellm import pages
from ellm.inspection.record import record, sources
from ellm.predict.roofline import Cost
from ellm.scheduler.contents import CacheKind
from ellm.scheduler.program import Program
from ellm.system.memory import readable

_SCRIPTS = (
    "vendor/cytoscape.min.js",
    "vendor/cytoscape-dagre.min.js",
    "vendor/d3.min.js",
    *("common.js", "model.js", "details.js", "elements.js", "graph.js", "memory.js", "table.js", "inspect.js"),
)


def page(program: Program, name: str, cores: list[int]) -> str:
    """One HTML file for workers on these cores."""
    data = record(program, name, cores) | {"sources": sources(program), "figures": figures(program)}
    return pages.page(f"{name}: ellm inspect", "inspect.html", data, _SCRIPTS)


def figures(program: Program) -> list[tuple[str, str, str]]:
    """The figures of the header: what they are of, how much, and what they mean."""
    cost, caches = Cost.of(program), program.cache_kinds
    most = cost.cache_bytes(program.context - 1)
    return [
        ("weights", readable(program.weights_bytes), "packed, in memory"),
        ("weights a token", readable(cost.weight_bytes.total()), "read to decode one token"),
        *((kind.name, *_grows(count, kind)) for kind, count in caches.items()),
        ("read of caches", readable(most), "at most, to decode one token"),
        ("a prefill row", f"{cost.row_flops / 1e9:.3g} GFLOP", "without attention and logits"),
        ("arena", readable(program.arena_bytes), f"{program.blocks} row blocks of {program.row_block} rows"),
        ("operators", f"{len(program.op_names):,}", "kernels with their arguments"),
        ("groups", f"{len(program.groups):,}", "ranges of tasks: one an operator and row block, or expert"),
        ("events", f"{len(program.events):,}", "each fires when its count is reached, and publishes groups"),
    ]


def _grows(count: int, kind: CacheKind) -> tuple[str, str]:
    """How much so many caches take of a position, and of a sequence."""
    position, sequence = readable(count * kind.position_bytes), readable(count * kind.sequence_bytes)
    return f"{position} a position", f"and {sequence} a sequence, in {count} caches"
