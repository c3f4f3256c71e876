"""Graphs as text equal the committed golden texts, traced and rewritten."""

import golden_texts
import networkx
import pytest
from small_models import one_layer, one_layer_graph

from ellm.dsl import GraphError, embed, show, trace


@pytest.mark.parametrize("name", golden_texts.TEXTS)
def test_text_equals_golden(name):
    assert golden_texts.TEXTS[name]() == (golden_texts.FOLDER / f"{name}.txt").read_text()


def test_every_golden_text_is_checked():
    assert {path.stem for path in golden_texts.FOLDER.glob("*.txt")} == set(golden_texts.TEXTS)


def test_graph_is_a_networkx_digraph_with_an_edge_per_input():
    graph = one_layer_graph()
    assert isinstance(graph, networkx.DiGraph)
    assert {(source, key) for key, node in graph.items() for source in node.inputs} == set(graph.edges)


def test_text_names_model_lines():
    lines = show.text(one_layer_graph(), lines=True).splitlines()
    source = one_layer.__code__.co_firstlineno
    assert f"# helpers/small_models.py:{source + 2}" in next(line for line in lines if " = embed(" in line)


def test_model_that_returns_no_logits_is_refused():
    with pytest.raises(GraphError, match="a model must return logits"):
        trace(lambda tokens, w, caches: embed(tokens, w.embed[50, 16]), 64)
