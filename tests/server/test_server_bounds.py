"""What one client may cost: each bound, over a raw socket, and that others are served meanwhile."""

import json
import socket
import time

import pytest
from served import NAME, parsed, read_all, serving, wait_until

CHAT = "/v1/chat/completions"
LONG = {"model": NAME, "messages": [{"role": "user", "content": "the"}], "max_tokens": 900, "ignore_eos": True}
SHORT = {**LONG, "max_tokens": 2}


def error_of(reply):
    status, _, body = reply
    return status, json.loads(body)["error"]["message"]


def is_served(running):
    return running.ask("POST", CHAT, SHORT)[0] == 200


def begin(running, body, path=CHAT):
    """A connection with a request on it."""
    connection = running.connect()
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


def reply_on(connection):
    """The reply to a request on a connection that stays open."""
    reply = b""
    while b"\r\n\r\n" not in reply:
        reply += connection.recv(1)
    status, headers, _ = parsed(reply)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(1)
    return status, headers, body


def test_a_long_body_is_refused_before_it_is_read(served):
    most = served.service.bounds.body_bytes
    with served.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {most + 1}\r\n\r\n".encode())
        status, message = error_of(reply_on(connection))
        assert status == 413 and str(most + 1) in message and str(most) in message
        connection.sendall(b" " * (most + 1) + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply_on(connection)[0] == 200  # what was refused is not in the way of what comes next


def test_a_long_body_in_chunks_is_refused_on_its_way(served):
    with served.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(served.service.bounds.body_bytes // 65536 + 1):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert reply_on(connection)[0] == 413
    wait_until(lambda: served.service.body_bytes == 0)
    assert is_served(served)


def test_bodies_on_their_way_are_bounded_together(llm):
    with serving(llm, bodies_bytes=100_000) as running:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n".encode()
        with running.connect() as first, running.connect() as second:
            first.sendall(head + b" " * 60_000)
            wait_until(lambda: running.service.body_bytes == 60_000)
            second.sendall(head + b" " * 60_000)
            assert reply_on(second)[0] == 503
        wait_until(lambda: running.service.body_bytes == 0)
        assert is_served(running)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64 deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested more than 64 deep"),
        (b"[" + b"0," * 400_000 + b"0]", "values, at most"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "must be a JSON object, not list"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"temperature": 1e999}', "temperature"),
        (b'{"max_tokens": 1' + b"0" * 5000 + b"}", "digits"),
        (b'{"max_tokens": 1.5}', "max_tokens"),
        (b'{"max_tokens": true}', "max_tokens"),
        (b'{"max_tokens": "3"}', "max_tokens"),
        (b'{"seed": -1}', "seed"),
    ],
)
def test_bodies_that_are_no_request(served, body, words):
    if body.startswith(b'{"') and b'"a"' not in body:  # a field of what is one otherwise
        body = json.dumps({"model": NAME, "messages": LONG["messages"]}).encode()[:-1] + b"," + body[1:]
    status, message = error_of(served.ask("POST", CHAT, body))
    assert status == 400 and words in message, message


def test_compressed_bodies_are_refused(served):
    status, message = error_of(served.ask("POST", CHAT, b"\x1f\x8b", ["Content-Encoding: gzip"]))
    assert status == 415 and "gzip" in message


def test_headers_are_bounded(served):
    status, message = error_of(served.ask("GET", "/v1/models", headers=[f"X-{n}: 1" for n in range(200)]))
    assert status == 431 and "at most 100" in message
    status, message = error_of(served.ask("GET", "/v1/models", headers=["X: " + "x" * 40_000]))
    assert status in (400, 431)
    assert served.ask("GET", "/v1/models?" + "x" * 40_000)[0] in (400, 431)
    assert is_served(served)


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_gets_an_error(served, line):
    with served.connect() as connection:
        connection.sendall(line if line.endswith(b"\r\n\r\n") else line + b"\r\n\r\n")
        status, _, body = parsed(read_all(connection))
    assert status == 400 and json.loads(body)["error"]["type"] == "invalid_request_error"
    assert is_served(served)


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_a_client_writes_nothing_into_the_log(served, caplog, upgrade):
    with served.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        read_all(connection)
    assert served.ask("GET", "/health", None, [f"Upgrade: {upgrade}", "Connection: Upgrade"])[0] == 200
    assert caplog.messages == []


def test_nonsense_behind_a_request_costs_that_client_alone(served):
    with begin(served, LONG | {"stream": True}) as connection:
        connection.recv(100)
        connection.sendall(b"nonsense\r\n\r\n")
        wait_until(lambda: served.service.under_way == 0)
    assert is_served(served)


def test_a_slow_request_is_given_up(llm):
    with serving(llm, receive_seconds=1.0) as running:
        silent, head, body = running.connect(), running.connect(), running.connect()
        head.sendall(b"GET /v1/models HT")
        body.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode())
        for connection in (silent, head, body):
            connection.settimeout(10)
            assert closes(connection)
        wait_until(lambda: running.service.body_bytes == 0)
        assert is_served(running)


def test_a_request_that_trickles_in_is_given_up(llm):
    with serving(llm, receive_seconds=1.0) as running, running.connect() as connection:
        connection.settimeout(10)
        with pytest.raises(OSError):
            for character in b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100:
                connection.sendall(bytes([character]))
                time.sleep(0.1)
        assert is_served(running)


def test_a_connection_serves_many_requests_whatever_its_age(llm):
    with serving(llm, receive_seconds=1.0) as running, running.connect() as connection:
        for _ in range(4):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert reply_on(connection)[0] == 200
            time.sleep(0.6)


def test_a_client_that_does_not_read_is_given_up(llm):
    with serving(llm, stalled_seconds=1.0) as running:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(400):  # pipelined
            try:
                connection.settimeout(0.2)
                connection.sendall(request)
            except OSError:
                break
        wait_until(lambda: not running.server.server_state.connections)
        assert is_served(running)
        connection.close()


def test_a_stream_waits_for_a_client_that_does_not_read(llm):
    with serving(llm, stalled_seconds=3.0) as running:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        wait_until(lambda: running.server.server_state.connections)
        (protocol,) = running.server.server_state.connections
        protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        protocol.transport.set_write_buffer_limits(2048)
        payload = json.dumps(LONG | {"stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection.sendall(head.encode() + payload)
        wait_until(lambda: protocol.flow.write_paused)
        sizes = []
        for _ in range(50):
            sizes.append(protocol.transport.get_write_buffer_size())
            time.sleep(0.01)
        assert max(sizes) < 4096  # of 150,000 bytes
        wait_until(lambda: running.service.under_way == 0)
        assert is_served(running)
        connection.close()


def test_a_stream_for_a_client_of_http_1_0_ends_with_the_connection(served):
    payload = json.dumps(SHORT | {"stream": True}).encode()
    with served.connect() as connection:
        head = f"POST {CHAT} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection.sendall(head.encode() + payload)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: {") and body.endswith(b"}\n\ndata: [DONE]\n\n")


def test_idle_connections_make_way_for_new_ones(llm):
    with serving(llm, connections=20) as running:
        held = [running.connect() for _ in range(60)]
        assert is_served(running)
        assert len(running.server.server_state.connections) <= 20
        for connection in held:
            connection.close()


def test_halves_of_requests_make_way_for_whole_ones(llm):
    half = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode()
    with serving(llm, connections=20) as running:
        held = []
        for _ in range(60):
            held.append(running.connect())
            held[-1].sendall(half)
        wait_until(lambda: running.service.body_bytes == 20)
        assert is_served(running)
        assert len(running.server.server_state.connections) <= 20
        for connection in held:
            connection.close()
        wait_until(lambda: running.service.body_bytes == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(served, stream):
    connection = begin(served, LONG | {"stream": stream})
    wait_until(lambda: served.service.under_way == 1)
    connection.close()
    wait_until(lambda: served.service.under_way == 0)
    assert is_served(served)


def test_too_many_requests_are_told_to_come_back(llm):
    with serving(llm, requests=2) as running:
        held = [begin(running, LONG | {"stream": True}) for _ in range(2)]
        wait_until(lambda: running.service.under_way == 2)
        status, headers, body = running.ask("POST", CHAT, SHORT)
        assert (status, headers["retry-after"]) == (429, "1") and json.loads(body)["error"]["code"] == "queue_full"
        assert running.ask("GET", "/health")[0] == 200
        for connection in held:
            connection.close()
        wait_until(lambda: running.service.under_way == 0)
        assert is_served(running)


def test_what_does_not_exist(served):
    status, _, body = served.ask("GET", "/nothing")
    assert status == 404 and json.loads(body)["error"]["code"] == "unknown_url"
    status, headers, body = served.ask("GET", CHAT)
    assert (status, headers["allow"]) == (405, "post") and json.loads(body)["error"]["type"] == "invalid_request_error"


def closes(connection):
    with connection:
        try:
            return connection.recv(1000) == b""
        except ConnectionResetError:
            return True


def test_of_too_many_items_it_is_said_whatever_they_may_be(served):
    status, message = error_of(served.ask("POST", "/v1/completions", {"model": NAME, "prompt": ["a"] * 65}))
    assert status == 400 and message.startswith("prompt: list should have at most 64 items after validation, not 65")
