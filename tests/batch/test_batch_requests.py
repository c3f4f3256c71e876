"""Lines as requests: what they ask for, what is refused and in which words; and reading files of any size."""

import json
import os
import tracemalloc
from dataclasses import replace

import pytest

from ellm.batch import lines as all_lines
from ellm.batch.lines import Lines
from ellm.batch.request import Reader
from ellm.server.bounds import Bounds
from ellm.server.errors import ApiError
from ellm.system.errors import InputError

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BOUNDS = Bounds(body_bytes=1000, body_values=100)


@pytest.fixture
def reader(tmp_path):
    return Reader("org/tiny", tmp_path, BOUNDS, raw=False, greedy=True)


def read(reader, line, number=7):
    return reader.request(number, reader.parse(json.dumps(line).encode())).body


def batch_line(body, url="/v1/chat/completions", **more):
    return {"custom_id": "a", "method": "POST", "url": url, "body": body} | more


def given(request):
    return request.model_dump(exclude_unset=True)


def test_a_chat_is_a_request_to_the_server(reader):
    body = CHAT | {"model": "tiny", "max_completion_tokens": 5, "repetition_penalty": 1.5, "stop": ["x"], "seed": 3}
    assert given(read(reader, batch_line(body))) == body
    assert given(read(reader, batch_line(CHAT))) == CHAT | {"model": "org/tiny", "seed": 7 * 16}


def test_a_completion_is_one(reader):
    found = read(reader, batch_line({"prompt": [1, 2, 3], "max_tokens": 4, "stream": False}, "/v1/completions"))
    assert given(found) == {"prompt": [1, 2, 3], "max_tokens": 4, "stream": False, "model": "org/tiny", "seed": 7 * 16}


def test_a_prompt_by_itself_is_asked_as_ellm_run_does(reader):
    found = given(read(reader, {"prompt": "why?", "custom_id": None, "top_k": 4}))
    assert found["messages"] == [{"role": "user", "content": "why?"}]
    assert (found["temperature"], found["top_k"], found.get("max_tokens")) == (0.0, 4, None)
    own = given(read(replace(reader, greedy=False), {"prompt": "why?"}))
    assert "temperature" not in own


def test_with_raw_it_is_continued_as_far_as_the_context_goes(reader):
    found = given(read(replace(reader, raw=True), {"prompt": "why?"}))
    assert (found["prompt"], found["max_tokens"]) == ("why?", (1 << 31) - 1)


def test_a_document_goes_before_its_prompt(reader, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\ufeffEin Märchen.", "utf-8")
    found = given(read(reader, {"prompt": "Who?", "document": "texts/a.txt"}))
    assert found["messages"][0]["content"] == "Ein Märchen.\n\nWho?"


@pytest.mark.parametrize(
    ("line", "param", "message"),
    [
        (batch_line(CHAT | {"temperature": -1}), "temperature", "temperature: .*, not -1"),
        (batch_line(CHAT | {"stream": True}), "stream", "stream must be false, .*, not True"),
        (batch_line(CHAT | {"banana": 1}), "banana", "banana is not a field that this server knows"),
        (batch_line(CHAT | {"max_tokens": "1"}), "max_tokens", "max_tokens: .*, not '1'"),
        (batch_line(CHAT, "/v1/embeddings"), "url", "url must be .*, not '/v1/embeddings'"),
        (batch_line(CHAT, ["/v1"]), "url", "url must be"),
        (batch_line(CHAT, method="GET"), "method", "method must be 'POST', not 'GET'"),
        (batch_line(CHAT, custom_id=7), "custom_id", "custom_id must be a text, not 7"),
        (batch_line(CHAT, extra=7), "extra", "extra must be left out: .*, not 7"),
        (batch_line([]), "body", "body must be an object"),
        (batch_line({"messages": []}), "messages", "messages: "),
        (batch_line({"prompt": []}, "/v1/completions"), "prompt", "prompt: "),
        ({"prompt": " "}, "prompt", "prompt must be a text, not ' '"),
        ({"question": "why?"}, "prompt", "prompt must be a text, not None"),
        ({"prompt": "why?", "question": 1}, "question", "question is not a field"),
        ({"prompt": "why?", "messages": []}, "messages", "messages must be left out"),
        ({"prompt": "x", "document": 3}, "document", "document must be the path of a file, not 3"),
        ({"prompt": "x", "document": "none"}, "document", "document 'none': cannot be read: No such file"),
        ({"prompt": "x", "document": "a\0b"}, "document", "cannot be read: embedded null byte"),
        ({"prompt": "x", "document": "."}, "document", "document '.': cannot be read: Is a directory"),
        ({"prompt": "x", "document": "pipe"}, "document", "document 'pipe': cannot be read: Not a file"),
        ({"prompt": "x", "document": "latin"}, "document", "is not UTF-8 text"),
        ({"prompt": "x", "document": "large"}, "document", "document 'large': has 1001 bytes, 1000 are the most"),
    ],
)
def test_what_is_refused_names_the_field_and_its_value(reader, tmp_path, line, param, message):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("ü".encode("latin-1"))
    (tmp_path / "large").write_bytes(b"x" * 1001)
    with pytest.raises(ApiError, match=message) as caught:
        read(reader, line)
    assert caught.value.param == param and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "is not JSON"),
        (b'{"prompt": NaN}', "NaN is no number"),
        (b'{"a":' * 90 + b"1" + b"}" * 90, "nested more than"),
        (b'{"prompt": "\xff"}', "is not JSON: .*invalid start byte"),
        (b"[1, 2]", "must be a JSON object, not list"),
        (b'{"a": [' + b"1," * 200 + b"1]}", "values, at most 100 are read"),
        (b'"' + b"x" * 1000 + b'"', "the line is longer than the 1000 bytes that are read"),
        (None, "the line is longer than"),
    ],
)
def test_a_line_that_is_no_object_is_refused(reader, line, message):
    with pytest.raises(ApiError, match=message):
        reader.parse(line)


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
