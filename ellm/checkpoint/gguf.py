"""A checkpoint in a GGUF file, or in the several parts of one."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.gguf_config import read_config, read_generation, read_notes
from ellm.checkpoint.gguf_families import family_of
from ellm.checkpoint.gguf_keys import unknown_keys
from ellm.checkpoint.gguf_parts import read_parts
from ellm.checkpoint.gguf_tensors import biased_modules, read_tensors, with_biases
from ellm.checkpoint.gguf_tokenizer import build_tokenizer


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, of a split model the first part. Raises InputError if it is broken or of another kind."""
    file = read_parts(path)
    family = family_of(file)
    biased = biased_modules(file, family)
    family = with_biases(file, family, biased)
    config = read_config(file, family, biased)
    tensors, unknown = read_tensors(file, family, config), unknown_keys(file, family)
    checkpoint = Checkpoint(
        str(path), config, read_generation(file), tensors, lambda: build_tokenizer(file), unknown, file.metadata
    )
    checkpoint.notes += read_notes(file, family)
    return checkpoint
