"""Numbers for Prometheus, under the names of vLLM, which routers and dashboards know."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ellm.serving.output import Output

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)
_SIZES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


class Metrics:
    """What has been served. Belongs to the event loop."""

    def __init__(self, model: str):
        self.registry = CollectorRegistry()
        self._model = model
        self._requests = self._counter("request_success", "Answers by why they ended.", "finished_reason")
        self._failures = self._counter("request_failure", "Requests refused or failed, by HTTP status.", "status")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._cached = self._counter("prompt_tokens_cached", "Tokens of prompts that were in a cache.")
        self._first = self._histogram("time_to_first_token_seconds", "From a request to its first text.", _LONG)
        self._between = self._histogram("inter_token_latency_seconds", "Between pieces of an answer's text.", _SHORT)
        self._whole = self._histogram("e2e_request_latency_seconds", "From a request to the end of its answer.", _LONG)
        self._prompt_size = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _SIZES)
        self._size = self._histogram("request_generation_tokens", "Tokens of an answer.", _SIZES)
        self._running = Gauge(
            "vllm:num_requests_running", "Requests under way.", ["model_name"], registry=self.registry
        ).labels(model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        found = Counter(f"vllm:{name}", text, ["model_name", *labels], registry=self.registry)
        return found if labels else found.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        found = Histogram(f"vllm:{name}", text, ["model_name"], registry=self.registry, buckets=buckets)
        return found.labels(self._model)

    def came(self, seconds: float, first: bool) -> None:
        """Text of an answer has come, so long after what came before."""
        (self._first if first else self._between).observe(seconds)

    def ended(self, output: Output, seconds: float) -> None:
        """An answer is whole."""
        self._requests.labels(self._model, output.finish_reason or "abort").inc()
        prompt, generated = len(output.prompt_token_ids), len(output.token_ids)
        self._prompt.inc(prompt)
        self._generated.inc(generated)
        self._cached.inc(output.metrics.cached_tokens)
        self._prompt_size.observe(prompt)
        self._size.observe(generated)
        self._whole.observe(seconds)

    def refused(self, status: int) -> None:
        """A request got an error."""
        self._failures.labels(self._model, str(status)).inc()

    def under_way(self, requests: int) -> None:
        """So many are."""
        self._running.set(requests)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
