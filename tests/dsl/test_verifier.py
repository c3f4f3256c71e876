"""The verifier catches a fault planted after any pass, and names the pass and the model line."""

from dataclasses import replace

import pytest
from small_models import one_layer_graph

from ellm.dsl import GraphError
from ellm.dsl import rewrite as rewriting
from ellm.dsl.tensor import T, Weight

PASSES = [apply.__name__ for apply in rewriting.CLEANING + rewriting.FUSING]


def first(graph, *ops) -> int:
    return next(key for key, node in graph.items() if node.op in ops)


def change(kind, **fields):
    def plant(graph):
        key = first(graph, kind)
        graph.put(key, replace(graph.node(key), **fields))

    return plant


def drop_edge(graph):
    key = first(graph, "attend")
    graph.remove_edge(graph.node(key).inputs[0], key)


def make_cycle(graph):
    graph.add_edge(graph.output, first(graph, "embed"))


def append_twice(graph):
    key = first(graph, "append", "qkv")
    graph.put(max(graph) + 1, graph.node(key))


def swap_output(graph):
    graph.output = first(graph, "embed")


def skip_gather(graph):
    gather = first(graph, "gather")
    graph.redirect(gather, graph.node(gather).inputs[0])


def lose_attribute(graph):
    key = first(graph, "attend")
    graph.put(key, replace(graph.node(key), attributes={"cache": "cache.0", "scale": 0.5}))


def read_other_cache(graph):
    key = first(graph, "attend")
    attributes = graph.node(key).attributes | {"cache": "cache.1"}
    graph.put(key, replace(graph.node(key), attributes=attributes))


def lose_input(graph):
    key = first(graph, "attend")
    graph.put(key, replace(graph.node(key), inputs=graph.node(key).inputs[:1]))


FAULTS = {
    "wrong shape": (change("attend", shape=(T, 8, 4)), r"is said to be \[T, 8, 4\], its operands make it \[T, 4, 8\]"),
    "unknown operator": (change("embed", op="lookup"), "lookup: no such operator"),
    "weight missing": (change("embed", weights={}), "embed: lacks weight"),
    "weight misshapen": (change("embed", weights={"weight": Weight("e", (50, 15))}), r"embed: .*\[T, 1[56]\]"),
    "unknown attribute": (change("embed", attributes={"scale": 2}), "embed: has unknown scale"),
    "attribute missing": (lose_attribute, "attend: lacks window"),
    "other cache": (read_other_cache, "attend: keys and values of cache cache.0, must be cache.1"),
    "input missing": (lose_input, r"attend: has 1 inputs, takes \(q, cache\)"),
    "edge missing": (drop_edge, "attend: reads .* its edges come from"),
    "cycle": (make_cycle, "the graph has a cycle"),
    "cache appended twice": (append_twice, "cache.0 is already appended to at helpers/small_models.py:"),
    "output is no logits": (swap_output, "the graph does not end in logits"),
    "gather missing": (skip_gather, r"\[T, 16\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", PASSES)
def test_fault_after_a_pass_is_caught(monkeypatch, name, fault):
    plant, message = FAULTS[fault]
    apply = getattr(rewriting, name)

    def faulty(graph):
        apply(graph)
        plant(graph)

    faulty.__name__ = name
    for group in ("CLEANING", "FUSING"):
        passes = tuple(faulty if one is apply else one for one in getattr(rewriting, group))
        monkeypatch.setattr(rewriting, group, passes)
    with pytest.raises(GraphError, match=message) as caught:
        rewriting.rewrite(one_layer_graph())
    assert f"after {name}: " in str(caught.value)


def test_fault_of_a_trace_is_caught():
    graph = one_layer_graph()
    change("embed", weights={})(graph)
    with pytest.raises(GraphError, match=r"^helpers/small_models.py:\d+: after trace: embed: lacks weight$"):
        rewriting.rewrite(graph)
