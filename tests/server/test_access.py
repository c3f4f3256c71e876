"""Keys, Host and Origin: whatever is not open says nothing."""

import pytest
from served import serving

KEY = "correct-horse"
OPEN = ["/health", "/ready", "/docs"]
CLOSED = ["/v1/models", "/v1/models/tiny", "/metrics", "/openapi.json", "/nothing", "/v1/chat/completions", "/api/tags"]


@pytest.fixture(scope="module")
def locked(llm):
    with serving(llm, keys=["another", KEY], hosts=["ai.example"]) as running:
        yield running


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "headers", [[], ["Authorization: Bearer wrong"], ["X-Api-Key: "], [f"Authorization: {KEY[:-1]}"]]
)
def test_without_the_key_nothing_is_told(locked, path, headers):
    status, sent, body = locked.ask("GET", path, headers=headers)
    assert (status, sent["www-authenticate"]) == (401, "bearer")
    assert b"tiny" not in body and b"API key" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_no_method_is_let_through(locked, method):
    assert locked.ask(method, "/v1/models")[0] == 401


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_key(locked, path):
    assert locked.ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    "header", [f"Authorization: Bearer {KEY}", f"authorization: bearer  {KEY}", f"X-Api-Key: {KEY}"]
)
@pytest.mark.parametrize("key", [KEY, "another"])
def test_each_key_opens(locked, header, key):
    assert locked.ask("GET", "/v1/models", headers=[header.replace(KEY, key)])[0] == 200


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/health/../v1/models", "/health%2f..%2fv1/models", "/HEALTH"]
)
def test_other_ways_to_write_a_path_open_nothing(locked, path):
    assert locked.ask("GET", path)[0] == 401


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:8000", "10.1.2.3", "AI.example:443"])
def test_hosts_of_this_server(locked, host):
    assert ask_as(locked, [f"Host: {host}"]) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "a@localhost.x"]
)
def test_a_foreign_host_is_refused(locked, host):
    assert ask_as(locked, [f"Host: {host}"]) == 403


def test_two_hosts_are_refused(locked):
    assert ask_as(locked, ["Host: localhost", "Host: localhost"]) == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
        ("http://[", 403),
    ],
)
def test_pages_of_other_origins_are_refused(locked, origin, status):
    assert ask_as(locked, ["Host: localhost", f"Origin: {origin}"]) == status


def test_there_is_no_cors(locked):
    headers = ["Origin: http://localhost", "Access-Control-Request-Method: POST", f"X-Api-Key: {KEY}"]
    status, sent, _ = locked.ask("OPTIONS", "/v1/chat/completions", headers=headers)
    assert status == 405 and not any(name.startswith("access-control") for name in sent)


def ask_as(running, headers):
    with running.connect() as connection:
        lines = ["GET /v1/models HTTP/1.1", *headers, f"X-Api-Key: {KEY}", "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(100).split()[1])


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
def test_every_answer_has_an_id_of_its_own(locked, path):
    ids = [locked.ask("GET", path)[1]["x-request-id"] for _ in range(2)]
    assert all(ids) and ids[0] != ids[1]
