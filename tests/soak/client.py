"""Clients of a server, for a process that may be killed at any moment: `client.py PORT ANSWERS SEED COUNT`.

Each sends one request after the other, leaves the answer at a random place now and then, and compares what came with
what is known. A line of JSON on stdout says of each request how it ended.
"""

import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from known_answers import Heard, read

LEAVE = 0.2  # of the requests are left
PATIENCE = 600  # seconds without a byte


class Client(threading.Thread):
    """One client, on a connection that is kept for some requests."""

    def __init__(self, port, known, seed):
        super().__init__(daemon=True)
        self._port, self._known, self._draw = port, known, random.Random(seed)
        self._connection = self._connect()

    def run(self):
        while True:
            at = self._draw.randrange(len(self._known))
            try:
                ended = self._ask(self._known[at])
            except (OSError, http.client.HTTPException, ValueError) as error:
                ended = f"broken: {error!r}"
            if ended != "right" or self._draw.random() < 0.3:
                self._connection.close()
                self._connection = self._connect()
            print(json.dumps([at, ended]), flush=True)

    def _connect(self):
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)

    def _ask(self, known):
        streams, leaves = self._draw.random() < 0.5, self._draw.random() < LEAVE
        self._connection.request("POST", known.path, json.dumps(known.body | {"stream": streams}))
        if leaves and not streams:
            time.sleep(self._draw.random())
            return "left"
        reply = self._connection.getresponse()
        if reply.status != 200:
            said = reply.read().decode(errors="replace")
            return "refused" if reply.status in (429, 503) else f"broken: status {reply.status}: {said}"
        heard, parts = Heard(known), self._draw.randrange(1, 40) if leaves else 0
        if not streams:
            heard.add(json.loads(reply.read()))
        elif not self._hear(reply, heard, parts):
            return "left" if heard.begins_right else "wrong"
        return "right" if heard.right else "wrong"

    def _hear(self, reply, heard, parts):
        """Add the events of a stream, up to so many; whether it has ended."""
        while line := reply.readline():
            if line.startswith(b"data: [DONE]"):
                reply.read()
                return True
            if line.startswith(b"data: "):
                heard.add(json.loads(line[6:]))
                parts -= 1
                if not parts:
                    return False
        raise http.client.IncompleteRead(b"")


def main():
    port, answers, seed, count = sys.argv[1:]
    known = read(Path(answers))
    clients = [Client(int(port), known, f"{seed}/{index}") for index in range(int(count))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


if __name__ == "__main__":
    main()
