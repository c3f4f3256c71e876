"""Lines as requests: what they ask for, what is refused and in which words; and reading files of any size."""

import json
import os
import tracemalloc

import pytest

from ellm.batch import document
from ellm.batch import lines as all_lines
from ellm.batch.lines import Lines
from ellm.batch.request import Reader, Refusal, parse
from ellm.system.errors import InputError

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def reader(tmp_path):
    return Reader(("org/tiny", "tiny"), tmp_path, False, {"top_k": 20})


def read(reader, line, number=7):
    return reader.read(number, parse(json.dumps(line).encode()))


def batch_line(body, url="/v1/chat/completions", **more):
    return {"custom_id": "a", "method": "POST", "url": url, "body": body} | more


def test_a_chat(reader):
    body = CHAT | {"model": "tiny", "max_completion_tokens": 5, "repetition_penalty": 1.5, "stop": ["x"], "n": 1}
    found = read(reader, batch_line(body | {"chat_template_kwargs": {"enable_thinking": False}, "user": "me"}))
    assert (found.custom_id, found.prompt, found.chat) == ("a", CHAT["messages"], True)
    assert found.template == {"chat_template_kwargs": {"enable_thinking": False}}
    assert found.sampling == {"max_tokens": 5, "repeat_penalty": 1.5, "stop": ["x"], "top_k": 20, "seed": 7}


@pytest.mark.parametrize("prompt", ["go on", [1, 2, 3], ["go on"]])
def test_a_completion(reader, prompt):
    found = read(reader, batch_line({"prompt": prompt, "seed": 3}, "/v1/completions"))
    assert not found.chat and found.prompt == ("go on" if prompt == ["go on"] else prompt)
    assert found.sampling == {"max_tokens": 16, "top_k": 20, "seed": 3}


def test_a_prompt_by_itself_is_asked_as_ellm_run_does(reader):
    found = read(reader, {"prompt": "why?", "custom_id": None})
    assert found.prompt == [{"role": "user", "content": "why?"}] and found.chat and found.custom_id is None
    assert found.sampling == {"max_tokens": None, "temperature": 0.0, "top_k": 20, "seed": 7}
    raw = Reader(reader.models, reader.folder, True, {})
    assert read(raw, {"prompt": "why?"}).prompt == "why?"


def test_a_document_goes_before_its_prompt(reader, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("﻿Ein Märchen.", "utf-8")
    found = read(reader, {"prompt": "Who?", "document": "texts/a.txt"})
    assert found.prompt[0]["content"] == "Ein Märchen.\n\nWho?"


@pytest.mark.parametrize(
    ("line", "param", "message"),
    [
        (batch_line(CHAT | {"temperature": -1}), "temperature", "temperature must be a number of at least 0, not -1"),
        (batch_line(CHAT | {"repetition_penalty": 0}), "repetition_penalty", "repetition_penalty must be .*, not 0"),
        (batch_line(CHAT | {"max_tokens": 1, "max_completion_tokens": 2}), "max_completion_tokens", "1, not 2"),
        (batch_line(CHAT | {"max_completion_tokens": 0.5}), "max_completion_tokens", "max_completion_tokens .*not 0.5"),
        (batch_line(CHAT | {"n": 2}), "n", "n must be 1, .*not 2"),
        (batch_line(CHAT | {"stream": True}), "stream", "stream must be False, .*not True"),
        (batch_line(CHAT | {"model": "gpt"}), "model", "model must be the one of this batch, 'org/tiny', not 'gpt'"),
        (batch_line(CHAT | {"model": ["tiny"]}), "model", "model must be"),
        (batch_line(CHAT | {"tools": [1]}), "tools", r"tools is \[1\]: ellm batch has no such field"),
        (batch_line(CHAT | {"chat_template_kwargs": 1}), "chat_template_kwargs", "must be an object, not 1"),
        (batch_line(CHAT, "/v1/embeddings"), "url", "url must be .*, not '/v1/embeddings'"),
        (batch_line(CHAT, ["/v1"]), "url", "url must be"),
        (batch_line(CHAT, method="GET"), "method", "method must be 'POST', not 'GET'"),
        (batch_line(CHAT, custom_id=7), "custom_id", "custom_id must be a text, not 7"),
        (batch_line(CHAT, extra=7), "extra", "extra is 7: ellm batch has no such field"),
        (batch_line([]), "body", "body must be an object"),
        (batch_line({"messages": []}), "messages", r"messages must be a list of messages, not \[\]"),
        (batch_line({"prompt": [1, True]}, "/v1/completions"), "prompt", "a text or a list of token ids"),
        (batch_line({"prompt": []}, "/v1/completions"), "prompt", "a text or a list of token ids"),
        (batch_line({"prompt": ["a", "b"]}, "/v1/completions"), "prompt", "a text or a list of token ids"),
        ({"prompt": " "}, "prompt", "prompt must be a text, not ' '"),
        ({"question": "why?"}, "question", "question is 'why\\?': ellm batch has no such field"),
        ({"prompt": "x", "document": 3}, "document", "document must be the path of a file, not 3"),
        ({"prompt": "x", "document": "none"}, "document", "document 'none': cannot be read: No such file"),
        ({"prompt": "x", "document": "a\0b"}, "document", "cannot be read: embedded null byte"),
        ({"prompt": "x", "document": "."}, "document", "document '.': cannot be read: Is a directory"),
        ({"prompt": "x", "document": "pipe"}, "document", "document 'pipe': cannot be read: Not a file"),
        ({"prompt": "x", "document": "latin"}, "document", "is not UTF-8 text"),
        ({"prompt": "x", "document": "large"}, "document", "document 'large': has .*, .* are the most"),
    ],
)
def test_what_is_refused_names_the_field_and_its_value(reader, tmp_path, monkeypatch, line, param, message):
    monkeypatch.setattr(document, "LARGEST", 1000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("ü".encode("latin-1"))
    (tmp_path / "large").write_bytes(b"x" * 1001)
    with pytest.raises(Refusal, match=message) as caught:
        read(reader, line)
    assert caught.value.param == param and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "the line is not JSON"),
        (b'{"prompt": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b'{"prompt": "\xff"}', "the line is not UTF-8: invalid start byte at byte 12"),
        (b"[1, 2]", r"the line must be an object, not \[1, 2\]"),
        (None, "the line is longer than"),
    ],
)
def test_a_line_that_is_no_object_is_refused(line, message):
    with pytest.raises(Refusal, match=message):
        parse(line)


def test_blank_lines_are_none_and_the_others_keep_their_numbers(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"\na\n \t\r\n\nb\r\n\nc")
    lines = Lines(path)
    assert (list(lines), lines.count) == ([(2, b"a\n"), (5, b"b\r\n"), (7, b"c")], 3)


def test_a_line_that_is_too_long_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(all_lines, "LONGEST", 8)
    path = tmp_path / "in"
    path.write_bytes(b"1234567\n12345678\n" + b"x" * 100 + b"\n" + b" " * 20 + b"\nend\n")
    lines = Lines(path)
    assert list(lines) == [(1, b"1234567\n"), (2, None), (3, None), (4, None), (5, b"end\n")]
    assert lines.count == 5


def test_a_huge_input_is_read_line_by_line(tmp_path):
    path = tmp_path / "in"
    line = b'{"prompt": "' + b"x" * 1000 + b'"}\n'
    with path.open("wb") as file:
        for _ in range(50):
            file.write(line * 1000)
    tracemalloc.start()
    lines = Lines(path)
    assert (lines.count, sum(1 for _ in lines)) == (50_000, 50_000)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("none", "there is no such file"), ("pipe", "is not a file"), (".", "is not a file")):
        with pytest.raises(InputError, match=message):
            Lines(tmp_path / name)
