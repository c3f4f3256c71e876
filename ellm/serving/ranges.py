"""KV ranges: one contiguous range of virtual memory per sequence, for its whole context.

Physical pages exist only where a sequence has written keys and values, so reserving for the longest context is free.
"""

from __future__ import annotations

import numpy as np

from ellm.system.memory import Mapping


class RangePool:
    """Ranges of `size` bytes, reserved when first needed and used again after release."""

    def __init__(self, size: int):
        self.size = size
        self._free: list[Mapping] = []
        self._all: list[Mapping] = []

    def acquire(self) -> Mapping:
        """A range that reads as zeros."""
        if self._free:
            return self._free.pop()
        mapping = Mapping(self.size, "the KV range of a sequence")
        self._all.append(mapping)
        return mapping

    def release(self, mapping: Mapping) -> None:
        """Take a range back, and its pages with it. Nothing changes if that is done already."""
        mapping.clear()
        if mapping not in self._free:
            self._free.append(mapping)

    @property
    def held(self) -> int:
        """Ranges that were acquired and not released."""
        return len(self._all) - len(self._free)

    def close(self) -> None:
        """Unmap every range. No step may be running."""
        for mapping in self._all:
            mapping.close()
        self._free, self._all = [], []


class PromptCache:
    """A KV range that outlives a request: what the next prompt has in common with it is not computed again.

    Of a model with a cache that cannot be cut, only a prompt that begins with all of `tokens` is spared them.
    One request at a time may use it. Made by `LLM.prompt_cache`.
    """

    def __init__(self) -> None:
        self.range: Mapping | None = None
        self.tokens: np.ndarray = np.empty(0, np.int32)  # whose keys and values the range holds
        self.busy = False

    def forget(self) -> None:
        """Hold nothing."""
        self.range, self.tokens = None, np.empty(0, np.int32)

    def common_prefix(self, tokens: np.ndarray) -> int:
        """How many of the first tokens the range already holds."""
        n = min(len(tokens), len(self.tokens))
        differ = np.flatnonzero(self.tokens[:n] != tokens[:n])
        return int(differ[0]) if len(differ) else n
