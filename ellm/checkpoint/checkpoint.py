"""A model at rest: its configuration, its tensors and its tokenizer, wherever they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ellm.checkpoint.pooling import StoredPooling
from ellm.checkpoint.sources import used_tensors
from ellm.checkpoint.tensors import TensorFiles, TensorInfo
from ellm.checkpoint.text_part import is_headless
from ellm.kernels.formats import FORMATS, PLAIN
from ellm.system import memory
from ellm.system.errors import InputError
from ellm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ellm.checkpoint.packed_weights import PackedWeights
    from ellm.scheduler.program import Program

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")


class Checkpoint:
    """What a folder or a GGUF file holds. Close it when the weights are loaded; the rest stays usable.

    Attributes:
        source: the folder or file, for messages.
        config: the model's configuration in the form of config.json.
        generation: the form of generation_config.json, or general.sampling of GGUF; empty if there is none.
        tensors: tensors by their Hugging Face names.
        notes: lines for the user on what was opened.
        unused_metadata: keys of a GGUF file that nothing here knows.
        metadata: of a GGUF file, all of it.
        packed: its weights as they lie in memory, if they are packed already; then no tensor can be read.
    """

    def __init__(
        self,
        source: str,
        config: dict[str, Any],
        generation: dict[str, Any],
        tensors: dict[str, TensorInfo],
        build_tokenizer: Callable[[], Tokenizer],
        unused_metadata: Sequence[str] = (),
        metadata: Mapping[str, Any] = MappingProxyType({}),
        packed: PackedWeights | None = None,
    ):
        self.source = source
        self.config = config
        self.generation = generation
        self.tensors = tensors
        self.notes: list[str] = []
        self.unused_metadata = unused_metadata
        self.metadata = metadata
        self.packed = packed
        self._build_tokenizer = build_tokenizer
        self._check_layers()
        self._files = TensorFiles({} if packed else tensors)

    @property
    def config_file(self) -> str:
        """The file that `config` comes from, for messages."""
        return self._beside("config.json")

    @property
    def generation_file(self) -> str:
        """The file that `generation` comes from, for messages."""
        return self._beside("generation_config.json")

    @property
    def headless(self) -> bool:
        """Whether it is a model without its head, which embeds texts and writes none."""
        return is_headless(self.config)

    @property
    def pooling(self) -> StoredPooling:
        """How it makes one vector of a text. Raises InputError if that is broken."""
        return StoredPooling.of(self.config, self.config_file)

    def _beside(self, name: str) -> str:
        return self.source if Path(self.source).is_file() else f"{self.source}/{name}"

    def _check_layers(self) -> None:
        """A wrong count is refused before anyone builds a graph of that many layers."""
        stored = 1 + max((int(match[1]) for name in self.tensors if (match := _LAYER.match(name))), default=-1)
        wanted = self.config.get("num_hidden_layers")
        if isinstance(wanted, int) and wanted > stored:
            raise InputError(f"{self.source}: num_hidden_layers is {wanted}, its tensors have {stored} layers")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built at first use; TokenIds if the folder has none. Raises InputError if it is broken."""
        return self._build_tokenizer()

    def precision(self, name: str) -> str:
        """The name of the format that a weight is computed with, by what is stored.

        That of bf16 if there is no such tensor, which loading will complain about.
        """
        tensor = self.tensor_of(name)
        return (tensor.format if tensor else PLAIN).name

    def tensor_of(self, name: str) -> TensorInfo | None:
        """The tensor that holds a weight, in whatever format. With "{expert}" in its name, expert 0 answers."""
        name = name.replace("{expert}", "0")
        names = (name + format.stored.suffix for format in FORMATS.values())
        return next((self.tensors[one] for one in names if one in self.tensors), None)

    def ignored(self, program: Program) -> list[str]:
        """Tensors that no weight of the program is made of, such as layers for multi-token prediction."""
        return sorted(self.tensors.keys() - used_tensors(program.weights))

    def read_once(self, needed: int) -> None:
        """Keep out of the page cache what will be read, unless there is room for all of it beside `needed` bytes.

        Else it would fill up the memory next to the cores that read, and what these touch first would lie elsewhere.
        """
        self._files.once = self._files.total_bytes() + needed > memory.available()

    def read_rows(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Rows [begin, end) of a matrix in the tensor's own precision. See `TensorFiles.read_rows`."""
        return self._files.read_rows(name, begin, end, matrix=matrix, columns=columns)

    def pack_rows(
        self,
        name: str,
        begin: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        runs: np.ndarray,
        address: int,
        k_tiles: int,
        *,
        matrix: int | None = None,
    ) -> bool:
        """Pack rows of a tensor that is `as_packed`. See `TensorFiles.pack_rows`."""
        return self._files.pack_rows(name, begin, rows, columns, runs, address, k_tiles, matrix=matrix)

    def read_parts(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Codes, and the parts of headers, of rows [begin, end). See `TensorFiles.read_parts`."""
        return self._files.read_parts(name, begin, end, matrix=matrix, columns=columns)

    def read_scales(self, name: str, begin: int, end: int, *, matrix: int | None = None) -> np.ndarray:
        """Rows [begin, end) of a matrix of scales, float32, or uint8 as stored. See `TensorFiles.read_scales`."""
        return self._files.read_scales(name, begin, end, matrix=matrix)

    def read_values(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Rows [begin, end) of a matrix in a tensor without scales, float32. See `TensorFiles.read_values`."""
        return self._files.read_values(name, begin, end, matrix=matrix, columns=columns)

    def read_vector(self, name: str, matrix: int | None = None) -> np.ndarray:
        """A one-dimensional tensor, or one row of a stack of them, as float32 [n]. Thread-safe."""
        return self._files.read_vector(name, matrix)

    def close(self) -> None:
        """Close the tensor files."""
        self._files.close()

    def reopened(self) -> AbstractContextManager[None]:
        """Once closed, open meanwhile. Raises InputError if a file is gone or not what it was."""
        return self._files.reopened()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
