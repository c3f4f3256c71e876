"""Numbers for Prometheus, under the names of vLLM, which routers and dashboards know."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ellm.serving.embedding import EmbeddingOutput
from ellm.serving.output import Output
from ellm.serving.statistics import Statistics
from ellm.system import memory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)
_SIZES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
_GAUGES = {  # of the engine's statistics
    "waiting": ("vllm:num_requests_waiting", "Requests that wait for a place in the steps."),
    "running": ("vllm:num_requests_running", "Requests that the steps compute."),
    "queued_tokens": ("ellm:queued_tokens", "Tokens of the requests that wait."),
    "kv_bytes": ("ellm:kv_cache_bytes", "Bytes of keys and values of the running requests."),
    "prefix_bytes": ("ellm:prefix_cache_bytes", "Bytes of keys and values that other requests may read."),
    "asleep": ("ellm:asleep", "1 while the model is given back, which the next request ends."),
    "wake_seconds": ("ellm:last_wake_seconds", "Seconds that it took to have it again, the last time."),
}
_COUNTERS = {
    "preemptions": ("vllm:num_preemptions", "Times that a running request was sent back to wait."),
    "prefix_queries": ("vllm:prefix_cache_queries", "Tokens of prompts that were looked for in the cache."),
    "prefix_hits": ("vllm:prefix_cache_hits", "Of these: tokens that were there."),
    "prefix_evictions": ("ellm:prefix_cache_evictions", "Blocks of keys and values that were given up."),
    "prompt_tokens": ("vllm:prompt_tokens", "Tokens of prompts computed."),
    "generated_tokens": ("vllm:generation_tokens", "Tokens generated."),
    "steps": ("ellm:steps", "Steps run."),
    "step_seconds": ("ellm:step_seconds", "Seconds that they took, with those of prediction heads."),
    "rows": ("ellm:rows", "Rows computed: tokens of prompts, tokens to go on from, and drafts."),
    "expert_rows": ("ellm:expert_rows", "Rows that experts computed, in all layers."),
    "experts_woken": ("ellm:experts_woken", "Times that an expert's weights were read for them: fewer is more reuse."),
    "sleeps": ("ellm:sleeps", "Times that the model was given back."),
    "wakes": ("ellm:wakes", "Times that it was had again."),
}


class Gaps:
    """How long after each other the pieces of answers came: the library's histogram takes two locks for each."""

    def __init__(self) -> None:
        self._counts, self._seconds = [0] * (len(_SHORT) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_SHORT, seconds)] += 1
        self._seconds += seconds

    def metric(self, model: str) -> Metric:
        """All of them, under vLLM's name."""
        name, text = "vllm:inter_token_latency_seconds", "Between pieces of an answer's text."
        bounds = [floatToGoString(bound) for bound in (*_SHORT, inf)]
        found = HistogramMetricFamily(name, text, labels=["model_name"])
        found.add_metric([model], [*zip(bounds, accumulate(self._counts), strict=True)], self._seconds)
        return found


class Metrics(Collector):
    """What is served, and has been. Belongs to the event loop."""

    def __init__(self, model: str, statistics: Callable[[], Statistics]):
        self.registry = CollectorRegistry()
        self._model, self._statistics = model, statistics
        self._requests = self._counter("request_success", "Answers by why they ended.", "finished_reason")
        self._failures = self._counter("request_failure", "Requests refused or failed, by HTTP status.", "status")
        self._first = self._histogram("time_to_first_token_seconds", "From a request to its first text.", _LONG)
        self._between = Gaps()
        self._whole = self._histogram("e2e_request_latency_seconds", "From a request to the end of its answer.", _LONG)
        self._prompt_size = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _SIZES)
        self._size = self._histogram("request_generation_tokens", "Tokens of an answer.", _SIZES)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The engine's numbers, when somebody asks."""
        now = self._statistics()
        for field, (name, text) in _GAUGES.items():
            yield self._gauge(name, text, getattr(now, field))
        usage = now.kv_bytes / max(1, now.kv_bytes + memory.available())
        yield self._gauge("vllm:kv_cache_usage_perc", "Of the memory for keys and values, how much is used.", usage)
        for field, (name, text) in _COUNTERS.items():
            found = CounterMetricFamily(name, text, labels=["model_name"])
            found.add_metric([self._model], getattr(now, field))
            yield found
        yield self._between.metric(self._model)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        found = GaugeMetricFamily(name, text, labels=["model_name"])
        found.add_metric([self._model], value)
        return found

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"vllm:{name}", text, ["model_name", label], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        found = Histogram(f"vllm:{name}", text, ["model_name"], registry=self.registry, buckets=buckets)
        return found.labels(self._model)

    def came(self, seconds: float, first: bool) -> None:
        """Text of an answer has come, so long after what came before."""
        (self._first if first else self._between).observe(seconds)

    def ended(self, output: Output, seconds: float) -> None:
        """An answer is whole."""
        self._requests.labels(self._model, output.finish_reason or "abort").inc()
        self._prompt_size.observe(len(output.prompt_token_ids))
        self._size.observe(len(output.token_ids))
        self._whole.observe(seconds)

    def embedded(self, output: EmbeddingOutput, seconds: float) -> None:
        """An embedding is there."""
        self._requests.labels(self._model, "stop").inc()
        self._prompt_size.observe(len(output.prompt_token_ids))
        self._whole.observe(seconds)

    def refused(self, status: int) -> None:
        """A request got an error."""
        self._failures.labels(self._model, str(status)).inc()

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
