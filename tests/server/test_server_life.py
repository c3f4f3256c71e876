"""Streams that wait, requests that fail, and how a server ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from types import SimpleNamespace

import pytest
from served import NAME, parsed, read_all, serving, wait_until

from ellm import LLM
from ellm.server import endpoint
from ellm.server.connection import Connection

CHAT = "/v1/chat/completions"
SHORT = {"model": NAME, "messages": [{"role": "user", "content": "the"}], "max_tokens": 2, "ignore_eos": True}
LONG = {**SHORT, "max_tokens": 400, "stream": True}


def begin(running, body):
    connection = running.connect()
    payload = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


@pytest.fixture
def gate(llm, monkeypatch):
    """Steps wait for it."""
    event, step = threading.Event(), llm.engine.step

    def wait_and_step(*given):
        event.wait(30)
        step(*given)

    monkeypatch.setattr(llm.engine, "step", wait_and_step)
    yield event
    event.set()


def test_the_head_leaves_at_once_and_comments_keep_a_stream_alive(served, gate, monkeypatch):
    monkeypatch.setattr(endpoint, "IDLE_SECONDS", 0.2)
    with begin(served, LONG) as connection:
        found = b""
        while found.count(b": \n\n") < 3:  # though no step has ended
            found += connection.recv(1000)
        assert found.startswith(b"HTTP/1.1 200 OK") and b"text/event-stream" in found
        gate.set()
        found += read_all(connection)
    events = parsed(found)[2].decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    said = [json.loads(one[6:]) for one in events[:-2] if one != ": "]
    assert all(one["object"] == "chat.completion.chunk" for one in said)


@pytest.mark.parametrize("closing", [False, True])
def test_nothing_is_written_to_a_connection_that_is_lost(closing):
    """Many parts may come before the loop tells of it, and asyncio complains of each."""
    written = []
    connection = Connection.__new__(Connection)
    connection.flow = SimpleNamespace(write_paused=False)
    connection.conn = SimpleNamespace(their_http_version=b"1.1")
    connection.transport = SimpleNamespace(is_closing=lambda: closing, write=written.append)
    asyncio.run(connection.send_part(b"part"))
    assert written == ([] if closing else [b"4\r\npart\r\n"])


def test_a_failed_step_fails_its_requests_and_no_other(served, llm, monkeypatch):
    class Failing:
        def __init__(self, executable):
            self.program = executable.program

        def run(self, inputs, meanwhile):
            raise RuntimeError("it fell over")

        def hold(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "executables", [Failing(one) for one in llm.engine.executables])
        status, _, body = served.ask("POST", CHAT, SHORT)
        assert status == 500 and json.loads(body)["error"]["type"] == "server_error" and b"fell" not in body
        _, _, body = served.ask("POST", CHAT, LONG)
        *_, error, end = body.decode().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error" and end == ""
    assert served.ask("POST", CHAT, SHORT)[0] == 200


@pytest.mark.parametrize("body", [SHORT, LONG])
def test_a_request_without_memory_is_told_so(served, llm, monkeypatch, body):
    def fail(*given, **more):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(llm, "streams_chat", fail)
        status, headers, said = served.ask("POST", CHAT, body)
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(said)["error"]["message"] == "there is no memory left for this request"
    assert served.ask("POST", CHAT, SHORT)[0] == 200


def test_a_sequence_that_does_not_fit_ends_alone(checkpoint, monkeypatch):
    """Its stream was begun, so that its error is the last event."""
    with LLM(checkpoint, cache_bytes=0) as llm, serving(llm) as running:
        room = llm.engine.room
        short = {**SHORT, "max_tokens": 40, "temperature": 0}
        whole = running.ask("POST", CHAT, short)[2]

        def left():
            room.unchecked = 0.0
            return (150 - sum(one.sequence.cached for one in [*llm.engine.running])) * room.position_bytes

        monkeypatch.setattr(room, "unchecked", 0.0)
        monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
        monkeypatch.setattr("ellm.system.memory.available", left)
        long = {**SHORT, "messages": [{"role": "user", "content": "x" * 300}]}
        status, _, body = running.ask("POST", CHAT, long)
        error = json.loads(body)["error"]
        assert (status, error["code"]) == (503, "generation_failed") and "of memory" in error["message"]
        *_, last, end = running.ask("POST", CHAT, {**long, "stream": True})[2].decode().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"] == error and end == ""
        again = running.ask("POST", CHAT, short)[2]
        assert json.loads(again)["choices"] == json.loads(whole)["choices"]


def test_a_full_queue_says_when_to_come_back(checkpoint):
    with LLM(checkpoint, max_seqs=1, queued_tokens=40) as llm, serving(llm) as running:
        held = [begin(running, LONG), begin(running, LONG)]
        wait_until(lambda: (now := llm.statistics()).running == 1 and now.waiting == 1)
        said = {**SHORT, "messages": [{"role": "user", "content": "x" * 40}]}
        status, headers, body = running.ask("POST", CHAT, said)
        error = json.loads(body)["error"]
        assert (status, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(headers["retry-after"]) >= 1 and "40 that may" in error["message"]
        for connection in held:
            connection.close()
        wait_until(lambda: running.service.under_way == 0)
        assert running.ask("POST", CHAT, said)[0] == 200


def test_metrics_are_those_of_the_engine(served):
    text = served.ask("GET", "/metrics")[2].decode()
    before = number(text, "vllm:generation_tokens_total")
    served.ask("POST", CHAT, SHORT)
    text = served.ask("GET", "/metrics")[2].decode()
    assert number(text, "vllm:generation_tokens_total") - before == 2
    for name in ("ellm:rows_total", "ellm:steps_total", "ellm:step_seconds_total"):
        assert number(text, name) > 0
    assert number(text, "ellm:expert_rows_total") == number(text, "ellm:experts_woken_total") == 0, "a dense model"
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_hits_total"):
        assert number(text, f"vllm:{name}") >= 0
    assert number(text, "vllm:time_to_first_token_seconds_count") >= 1


def number(text, name):
    return float(re.search(rf'^{name}{{model_name="tiny"}} (\S+)$', text, re.MULTILINE)[1])


def test_the_first_signal_drains(llm, gate):
    with serving(llm) as running:
        with begin(running, LONG) as connection:
            wait_until(lambda: running.service.under_way == 1)
            running.signal()
            wait_until(lambda: running.service.draining)
            assert [running.ask("GET", path)[0] for path in ("/ready", "/health", "/metrics")] == [503, 200, 200]
            status, headers, body = running.ask("POST", CHAT, SHORT)
            assert status == 503 and "retry-after" in headers and b"shutting down" in body
            gate.set()
            assert read_all(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        running._thread.join(10)
        assert not running._thread.is_alive()


def test_the_second_signal_ends_what_is_under_way(llm, gate):
    with serving(llm) as running, begin(running, LONG) as connection:
        wait_until(lambda: running.service.under_way == 1)
        running.signal()
        wait_until(lambda: running.service.draining)
        running.signal()
        assert b"[DONE]" not in read_all(connection)
        wait_until(lambda: running.service.under_way == 0)
        gate.set()


def test_a_server_without_requests_ends_at_once(llm):
    with serving(llm) as running:
        running.signal()
        running._thread.join(10)
        assert not running._thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(checkpoint, number):
    command = [sys.executable, "-m", "ellm.cli.main", "serve", str(checkpoint), "--port", "0", "--name", NAME]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"ELLM_API_KEY": "secret"})
    first = process.stderr.readline()
    url = re.fullmatch(r"serving tiny on (http://127.0.0.1:\d+), context \d+ tokens\n", first)[1]
    assert process.stderr.readline() == "ready\n"
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": "Bearer secret"})
    assert json.load(urllib.request.urlopen(request))["data"][0]["id"] == NAME
    process.send_signal(number)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--api-key", ""], "--api-key"),
        (["--api-key", "two words"], "without spaces"),
        (["--name", " "], "--name"),
        (["--tool-parser", "nobody"], "tool_parser must be one of openai"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 8000"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(in_process, options, words):
    code, out, err = in_process("serve", "/nowhere", *options)
    assert (code, out) == (2, "") and words in err
