"""Token ids of GGUF vocabularies of every kind: committed checks of llama.cpp's, and live ones (oracle)."""

import json

import pytest
from ggml_checks import FILE, LENGTH, check, texts
from ggml_vocabularies import SPECIAL, VOCABULARIES, write_vocabulary
from odd_texts import odd_texts

from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_tokenizer import build_tokenizer


@pytest.mark.parametrize("name", VOCABULARIES)
def test_committed_checks(tmp_path, name):
    tokenizer = build_tokenizer(GGUFFile(write_vocabulary(tmp_path / "vocabulary.gguf", name)))
    stored = json.loads(FILE.read_text())[name]
    for index, text in enumerate(texts()):
        ids = tokenizer.encode(text)
        found = check(ids, tokenizer.decode(ids[1:], skip_special=False))
        assert found == stored[index * LENGTH : (index + 1) * LENGTH], text


def test_every_vocabulary_is_checked():
    assert list(json.loads(FILE.read_text())) == VOCABULARIES


@pytest.mark.oracle
@pytest.mark.parametrize("name", VOCABULARIES)
def test_equal_llama_cpp(tmp_path, name):
    pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python: it builds llama.cpp")
    from llama_cpp_peer import LlamaCpp

    path = write_vocabulary(tmp_path / "vocabulary.gguf", name)
    tokenizer = build_tokenizer(GGUFFile(path))
    with LlamaCpp(path) as peer:
        for text in odd_texts(2000, seed=2, special=SPECIAL):
            ids = peer.encode(text)
            assert tokenizer.encode(text) == ids, text
            for special in (False, True):
                whole = peer.decode(ids[1:], special)
                assert tokenizer.decode(ids[1:], skip_special=not special).lstrip(" ") == whole.lstrip(" "), text
