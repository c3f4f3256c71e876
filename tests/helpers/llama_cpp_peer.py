"""llama.cpp's own tokenizer, through llama-cpp-python."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import llama_cpp


@llama_cpp.llama_log_callback
def _quiet(*_) -> None:
    pass


class LlamaCpp:
    """The vocabulary of a GGUF file."""

    def __init__(self, path: Path):
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model, f"llama.cpp refuses {path}"
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._ids = (llama_cpp.llama_token * 100_000)()
        self.piece = cache(self._piece)

    def encode(self, text: str) -> list[int]:
        """Token ids with what the model adds around a text, special tokens in it parsed.

        Where the text itself begins with BOS, llama.cpp adds another and warns of it; that one is left out.
        """
        data = text.encode()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), self._ids, len(self._ids), True, True)
        ids = list(self._ids[:count])
        adds = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        return ids[1:] if adds and ids[:2] == [llama_cpp.llama_vocab_bos(self._vocab)] * 2 else ids

    def decode(self, ids: list[int], special: bool) -> str:
        """The text of token ids, the first space of each included."""
        return b"".join(self.piece(token, special) for token in ids).decode(errors="replace")

    def _piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(1 << 12)
        count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:count]

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_) -> None:
        llama_cpp.llama_model_free(self._model)
