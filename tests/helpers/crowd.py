"""Very many connections at a time, which send nothing, or half of a request."""

import contextlib
import itertools
import resource
import socket

HALVES = (  # what is sent of a request
    b"",
    b"POST /v1/chat/comp",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
)

PATIENCE = 60  # seconds


@contextlib.contextmanager
def crowd(port, count):
    """So many connections, or as many as this process and the server can have: a list of them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = hard if hard != resource.RLIM_INFINITY else count + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    held = []
    try:
        for half in itertools.islice(itertools.cycle(HALVES), min(count, most - 500)):
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            except OSError:
                break
            held.append(connection)
            with contextlib.suppress(ConnectionError):  # it has made way already
                connection.sendall(half)
        yield held
    finally:
        for connection in held:
            connection.close()
