"""A model at rest: its configuration, its tensors and its tokenizer, wherever they come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ellm.checkpoint.tensors import TensorFiles, TensorInfo
from ellm.kernels.errors import InputError
from ellm.tokenizer import Tokenizer

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class Checkpoint:
    """What a folder or a GGUF file holds. Close it when the weights are loaded; the rest stays usable.

    Attributes:
        source: the folder or file, for messages.
        config: the model's configuration in the form of config.json.
        generation: the form of generation_config.json; empty if there is none.
        tensors: tensors by their Hugging Face names.
    """

    def __init__(
        self,
        source: str,
        config: dict[str, Any],
        generation: dict[str, Any],
        tensors: dict[str, TensorInfo],
        build_tokenizer: Callable[[], Tokenizer],
    ):
        self.source = source
        self.config = config
        self.generation = generation
        self.tensors = tensors
        self._build_tokenizer = build_tokenizer
        self._check_layers()
        self._files = TensorFiles(tensors)

    def _check_layers(self) -> None:
        """A wrong count is refused before anyone builds a graph of that many layers."""
        stored = 1 + max((int(match[1]) for name in self.tensors if (match := _LAYER.match(name))), default=-1)
        wanted = self.config.get("num_hidden_layers")
        if isinstance(wanted, int) and wanted > stored:
            raise InputError(f"{self.source}: num_hidden_layers is {wanted}, its tensors have {stored} layers")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built at first use. Raises InputError if there is none or it is broken."""
        return self._build_tokenizer()

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of a matrix as the bits of bf16, uint16 [rows, k]. See `TensorFiles.read_rows`."""
        return self._files.read_rows(name, begin, end)

    def read_vector(self, name: str) -> np.ndarray:
        """A one-dimensional tensor as float32 [n]. Thread-safe."""
        return self._files.read_vector(name)

    def close(self) -> None:
        """Close the tensor files."""
        self._files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
