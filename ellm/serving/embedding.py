"""The embedding of a prompt as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ellm.serving.driver import Driver
from ellm.serving.entry import Entry
from ellm.serving.output import Metrics
from ellm.serving.pooling import Pooling
from ellm.serving.sampling import SamplingParams
from ellm.serving.sequence import Sequence as TokenSequence
from ellm.system.errors import InputError

_NOTHING_DRAWN = SamplingParams(max_tokens=1)


@dataclass
class EmbeddingOutput:
    """The embedding of one prompt."""

    embedding: np.ndarray  # float32 [dimensions]
    prompt_token_ids: list[int]
    metrics: Metrics = field(default_factory=Metrics)


class Embedding(Entry):
    """Embeds a prompt of [1, context] token ids by pooling of the kind `pooling`; for others see PoolingParams."""

    def __init__(
        self,
        prompt: np.ndarray,
        pooling: str,
        dimensions: int | None,
        normalize: bool,
        context: int,
        salt: bytes = b"",
    ):
        self._pooling = Pooling(pooling, len(prompt))
        super().__init__(TokenSequence(prompt, _NOTHING_DRAWN, context, salt, pooling=self._pooling))
        self._form = dimensions, normalize
        self._vector: np.ndarray | None = None

    def read(self) -> bool:
        """End the sequence when all of it is computed. It fails if the hidden state is no number."""
        sequence = self.sequence
        if sequence.left or sequence.done:
            return False
        self.metrics.prefill_seconds = time.perf_counter() - self._begun
        self._vector = self._pooling.vector(*self._form)
        if np.isfinite(self._vector).all():
            sequence.done = True
        else:
            broken = "its weights are broken, or too large for the precision that it is computed in"
            sequence.fail(InputError(f"the model's hidden state of {sequence.length} tokens is NaN: {broken}"))
        return False  # until the entry has ended

    def output(self) -> EmbeddingOutput:
        """The embedding. Raises what the step raised if the sequence failed, InputError if it was ended before."""
        if self.sequence.error is not None:
            raise self.sequence.error
        if self._vector is None:
            raise InputError("the request was ended before its embedding was there")
        return EmbeddingOutput(self._vector, self.sequence.tokens[: self.sequence.length].tolist(), self.metrics)


class Embeddings:
    """Embeddings under way. Dropping or closing it early ends the request and frees its memory."""

    def __init__(self, driver: Driver, entries: Sequence[Embedding], notify: Callable[[], object]):
        self._driver, self._entries = driver, entries
        for entry in entries:
            entry.notify = notify
        driver.submit(entries)

    def poll(self) -> list[EmbeddingOutput] | None:
        """All of them, in order, or None if they are not there yet. Raises what ended one in an error."""
        ended = [entry.ended for entry in self._entries]
        for entry, has in zip(self._entries, ended, strict=True):
            if has and entry.sequence.error is not None:
                raise entry.sequence.error
        return [entry.output() for entry in self._entries] if all(ended) else None

    def close(self) -> None:
        """End the request with the step under way. Never blocks."""
        if not all(entry.ended for entry in self._entries):
            self._driver.cancel(self._entries)

    def __del__(self) -> None:
        self.close()
