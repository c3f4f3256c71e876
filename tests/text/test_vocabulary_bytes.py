"""The bytes of tokens: what a grammar takes them for."""

import pytest
from ggml_vocabularies import write_vocabulary
from llguidance import LLTokenizer
from tokenizer_folders import backend

from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_tokenizer import build_tokenizer
from ellm.text.vocabulary_bytes import TokenBytes, vocabulary_bytes

TEXT = "the «end» of\n 12 thinkers,  ☃ and\t\U0001f600"


@pytest.mark.parametrize("base", ["gpt2", "split", "metaspace-never", "metaspace-first", "prepend"])
def test_tokens_of_a_folder_are_what_llguidance_takes_them_for(base):
    made = backend(base, None)
    oracle, found = LLTokenizer(made.to_str()), vocabulary_bytes(made)
    special = {number for number, token in made.get_added_tokens_decoder().items() if token.special}
    assert [TokenBytes(made).of(number) for number in range(len(found) + 1)] == [*found, b""]
    for number, token in enumerate(found):
        assert number in special or oracle.decode_bytes([number]) == token.strip(b"\xff")  # its mark of special ones
    ids = made.encode(TEXT, add_special_tokens=False).ids
    assert b"".join(found[number] for number in ids).decode().removeprefix(" ") == TEXT


@pytest.mark.parametrize("name", ["gpt2 llama-bpe", "gemma4", "llama", "llama no-prefix"])
def test_tokens_of_a_gguf_file_are_what_they_decode_to(tmp_path, name):
    made = build_tokenizer(GGUFFile(write_vocabulary(tmp_path / "vocabulary.gguf", name))).backend
    found = vocabulary_bytes(made)
    assert [TokenBytes(made).of(number) for number in range(len(found) + 1)] == [*found, b""]
    text = "the end of\n 12 thinkers, \t\U0001f600"
    ids = made.encode(text, add_special_tokens=False).ids
    assert b"".join(found[number] for number in ids).decode().removeprefix(" ") == text
    assert all(found[number].decode() == token.content for number, token in made.get_added_tokens_decoder().items())
