"""What Prometheus reads of the times between pieces of text is what its own histogram would say of them."""

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from ellm.server.metrics import Metrics
from ellm.serving.statistics import Statistics

NAME = "vllm:inter_token_latency_seconds"
GAPS = (0.0, 0.001, 0.0011, 0.002, 0.3, 10, 10.5)
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def test_gaps_are_counted_as_the_library_counts_them():
    metrics, registry = Metrics("model", Statistics), CollectorRegistry()
    theirs = Histogram(NAME, "", ["model_name"], registry=registry, buckets=BOUNDS).labels("model")
    for seconds in GAPS:
        metrics.came(seconds, first=False)
        theirs.observe(seconds)
    expected = [(one.name, one.labels, one.value) for one in next(iter(registry.collect())).samples]
    assert _samples(metrics) == [one for one in expected if not one[0].endswith("_created")]


def _samples(metrics):
    families = text_string_to_metric_families(metrics.page().decode())
    family = next(one for one in families if one.name == NAME)
    return [(one.name, one.labels, one.value) for one in family.samples]
