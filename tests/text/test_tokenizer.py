"""Tokenizer: ids, streams that never break a character, chat templates."""

import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from ellm.system.errors import InputError
from ellm.text.tokenizer import Tokenizer

SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def make(backend, template=None, **arguments):
    templates = {} if template is None else {"default": template}
    return Tokenizer(backend, source="model", special_tokens=SPECIAL, chat_templates=templates, **arguments)


@pytest.fixture(scope="module")
def tokenizer(backend):
    return make(backend)


@pytest.fixture(scope="module")
def sentencepiece():
    """Byte fallback and a leading space that decoding strips: the decoder whose text depends on what came before."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581the", "a", "é"]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend, source="model", special_tokens={"bos_token": "<s>"})


def streamed(tokenizer, ids, skip_special=True):
    stream = tokenizer.stream(skip_special)
    pieces = [stream.push(number) for number in ids]
    return pieces, stream.finish()


def test_streams_hold_back_half_characters(tokenizer):
    ids = tokenizer.encode("a🌍é", add_special=False)
    assert streamed(tokenizer, ids) == (["a", "", "", "", "🌍", "", "é"], "")
    assert streamed(tokenizer, ids[:3]) == (["a", "", ""], "\ufffd")


def test_ids_outside_the_vocabulary_become_nothing(tokenizer):
    assert tokenizer.decode([-1, 1 << 31, 1 << 40]) == ""


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 270), max_size=30))
def test_streamed_text_is_the_decoded_text(tokenizer, ids):
    """Any ids at all: bytes that are no UTF-8, special tokens, ids outside the vocabulary."""
    for skip_special in (True, False):
        pieces, rest = streamed(tokenizer, ids, skip_special)
        assert "".join(pieces) + rest == tokenizer.decode(ids, skip_special)
        assert not any(piece.endswith("\ufffd") for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["\u2581", "\u2581the", "a", "é", "<s>", "<0xE2><0x82><0xAC>", "<0x0A>"]), max_size=20
    )
)
def test_streamed_text_is_the_decoded_text_of_sentencepiece(sentencepiece, text):
    names = [name for word in text for name in (word.replace("><", "> <").split(" "))]
    ids = [sentencepiece.backend.token_to_id(name) for name in names]
    pieces, rest = streamed(sentencepiece, ids)
    assert "".join(pieces) + rest == sentencepiece.decode(ids)


def test_a_stream_is_as_fast_at_the_end_as_at_the_start(tokenizer):
    stream = tokenizer.stream()
    for number in tokenizer.encode("the rain in the end " * 50):
        stream.push(number)
        assert len(stream._ids) <= 2


def test_special_tokens(backend, tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (0, {2}, 267)
    assert make(backend, eos_ids=[1]).eos_ids == {1, 2}
    with pytest.raises(InputError, match=r"^model: bos_token is '<s>', which is not in the vocabulary$"):
        Tokenizer(backend, source="model", special_tokens={"bos_token": "<s>"})


def test_bos(backend):
    plain = make(backend).encode("the")
    assert make(backend, add_bos=True).encode("the") == [0, *plain]
    assert make(backend, add_bos=True).encode("the", add_special=False) == plain
    adding = tokenizers.Tokenizer.from_str(backend.to_str())
    adding.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert make(adding).encode("the") == [0, *plain]
    assert make(adding, add_bos=True).encode("the") == [0, *plain]
    assert make(adding, add_bos=False).encode("the") == plain
    assert make(adding, add_bos=False).encode("<|endoftext|>the") == [0, *plain]  # the text's own stays


def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"^the text is not valid Unicode"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    "template, text",
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<|endoftext|>hi<|im_end|>"),
        ("{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n", "user\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ {'b': 'é<', 'a': [1, none]} | tojson }}", '{"b": "é<", "a": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ strftime_now('%%') }}", "%"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}", "True True True"),
        ("{%- set ns = namespace(n=1) -%}\n{%- set ns.n = ns.n + 1 -%} {{- ns.n -}}", "2"),
    ],
)
def test_templates(backend, template, text):
    assert make(backend, template).render(MESSAGES) == text


@pytest.mark.parametrize(
    "template, words",
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.at.all }}", "has no attribute"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "recursion depth"),
        ("{% for a in b %}" * 40 + "{% endfor %}" * 40, "nested"),
    ],
    ids=range(8),
)
def test_templates_that_fail(backend, template, words):
    with pytest.raises(InputError) as caught:
        make(backend, template).render(MESSAGES)
    assert words in str(caught.value) and str(caught.value).startswith("model: chat_template")
    assert "\n" not in str(caught.value)


def test_a_broken_template_does_not_hinder_plain_text(backend):
    tokenizer = make(backend, "{% if %}")
    assert tokenizer.encode("the")
    with pytest.raises(InputError, match=r"^model: chat_template does not compile: Expected an expression"):
        tokenizer.render(MESSAGES)


def test_no_template(tokenizer):
    assert not tokenizer.has_chat_template
    with pytest.raises(InputError, match=r"^model: the model has no chat_template"):
        tokenizer.chat(MESSAGES)
    assert make(tokenizer.backend, tiny.CHAT_TEMPLATE).has_chat_template


def test_chat_ids_hold_no_second_bos(backend):
    tokenizer = make(backend, "{{ bos_token }}the", add_bos=True)
    assert tokenizer.chat(MESSAGES) == [0, *make(backend).encode("the")]
