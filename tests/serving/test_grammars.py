"""Grammars on tokenizers of every kind: what is forced has the bytes that it should have."""

import json

import pytest
from ggml_vocabularies import write_vocabulary
from tokenizer_folders import backend

from ellm import InputError, StructuredOutputs
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_tokenizer import build_tokenizer
from ellm.serving.grammars import KEPT, Grammars
from ellm.text.tokenizer import Tokenizer
from ellm.text.vocabulary_bytes import vocabulary_bytes

TEXT = 'the hello, other "ends"\n1 é 🙂 </s> x'


def folder(base):
    return Tokenizer(backend(base, None), source=base, special_tokens={"eos_token": "</s>"})


def tokenizer(name, path):
    if name.startswith("folder "):
        return folder(name.removeprefix("folder "))
    return build_tokenizer(GGUFFile(write_vocabulary(path / "vocabulary.gguf", name)))


@pytest.mark.parametrize(
    "name",
    ["folder gpt2", "folder split", "folder metaspace-never", "folder prepend", "gpt2 llama-bpe", "llama", "gemma4"],
)
def test_forced_tokens_spell_the_text(tmp_path, name):
    """And are text, though a special token has the same letters, up to what no token has bytes for."""
    made = tokenizer(name, tmp_path)
    vocab = made.vocab_size + 5
    matcher = Grammars(made, vocab).matcher(StructuredOutputs(choice=[TEXT]))
    tokens, spelled = vocabulary_bytes(made.backend), b""
    special = {number for number, token in made.backend.get_added_tokens_decoder().items() if token.special}
    while forced := matcher.compute_ff_tokens():
        assert not special & {*forced} and matcher.consume_tokens(forced)
        spelled += b"".join(tokens[one] for one in forced)
    assert spelled.decode() == TEXT and matcher.is_accepting() and matcher.is_stopped()


def test_forced_tokens_are_the_tokenizers_own():
    made = folder("gpt2")
    matcher = Grammars(made, made.vocab_size).matcher(StructuredOutputs(choice=["the hello thinker"]))
    assert matcher.compute_ff_tokens() == made.encode("the hello thinker")


def test_a_grammar_is_made_once(monkeypatch):
    made = folder("gpt2")
    grammars, times = Grammars(made, made.vocab_size), []
    monkeypatch.setattr(grammars, "_made", lambda *key: times.append(key) or Grammars._made(grammars, *key))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    first, second = (grammars.matcher(StructuredOutputs(json=one)) for one in (schema, json.dumps(schema)))
    assert times == [("json", json.dumps(schema))]
    assert first.consume_tokens(made.encode("{")) and not second.is_accepting(), "each goes its own way"
    assert second.validate_tokens(made.encode("{")) == 1
    for at in range(KEPT):
        grammars.matcher(StructuredOutputs(regex=f"a{at}"))
    grammars.matcher(StructuredOutputs(json=schema))
    assert len(times) == KEPT + 2


def test_many_repeats_of_little_are_bounded():
    made = folder("gpt2")
    matcher = Grammars(made, made.vocab_size).matcher(StructuredOutputs(regex="(a{1000}){1000}"))
    assert 0 < len(matcher.compute_ff_tokens()) <= 1024


def test_a_tokenizer_without_an_end_is_refused():
    made = Tokenizer(backend("gpt2", None), source="endless", special_tokens={})
    with pytest.raises(InputError, match="endless: no token ends an answer, which structured_outputs need"):
        Grammars(made, made.vocab_size).matcher(StructuredOutputs(regex="a"))


def chain(names, last):
    return "".join([f"start: {names}0\n", *(f"{names}{at}: {names}{at + 1}\n" for at in range(4000)), last])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"grammar": chain("r", 'r4000: "a"')}, "structured_outputs: grammar: takes too much stack"),
        ({"grammar": chain("T", 'T4000: "a"')}, "structured_outputs: grammar: takes too much stack"),
        ({"json": {"type": "integer", "multipleOf": 999983}}, "structured_outputs: json: takes more than 1 s"),
        (
            {"json": {"allOf": [{"pattern": f"^(a|b)*a(a|b){{{n}}}c$", "type": "string"} for n in range(30)]}},
            "structured_outputs: json: takes more than 1 s",
        ),
    ],
)
def test_what_would_take_the_stack_or_minutes_is_refused(wanted, message):
    made = folder("gpt2")
    grammars = Grammars(made, made.vocab_size)
    with pytest.raises(InputError, match=message):
        grammars.matcher(StructuredOutputs(**wanted))
    assert grammars.matcher(StructuredOutputs(choice=["the hello"])).compute_ff_tokens() == made.encode("the hello")


def test_one_process_serves_several_vocabularies():
    for base in ("gpt2", "split", "metaspace-never", "gpt2"):
        made = folder(base)
        grammars = Grammars(made, made.vocab_size)
        assert grammars.matcher(StructuredOutputs(choice=["the"])).compute_ff_tokens() == made.encode("the")
        token = StructuredOutputs(grammar=f'start: <[{made.vocab_size - 1}]> "a"')
        assert not grammars.matcher(token).is_error(), "it is known by its number"
