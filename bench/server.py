"""What a server costs: tokens/s of many streams over HTTP beside those of LLM.generate, in turn.

python bench/server.py [MODEL] [STREAMS] [TOKENS]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

from ellm import LLM, SamplingParams
from ellm.server.app import App
from ellm.server.server import Server, listen
from ellm.server.service import Service

REPEAT = 5
END = 64  # bytes of a reply that hold its last event
AT_ONCE = 1 << 16  # bytes of a reply, or its end, that wake the client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("streams", type=int, nargs="?", default=16)
    parser.add_argument("tokens", type=int, nargs="?", default=64, help="of each stream")
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prompts, tokens = prompts_of(arguments.streams), arguments.tokens
    if arguments.client is not None:  # a process of its own, as clients are
        print(online(arguments.client, prompts, tokens))
        return
    with LLM(arguments.model, context=2048, speculate="off", cache_bytes=0) as llm, listen("127.0.0.1", 0) as listener:
        ready = threading.Event()
        service = Service(llm, ["model"])
        server = Server(App(service), service, listener, started=ready.set)
        thread = threading.Thread(target=server.serve_until_told)
        thread.start()
        ready.wait()
        port = listener.getsockname()[1]
        pairs = []
        for _ in range(REPEAT + 1):
            command = [sys.executable, __file__, arguments.model, len(prompts), tokens, "--client", port]
            client = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
            online_seconds = float(client.communicate()[0])
            pairs.append((offline(llm, prompts, tokens), online_seconds))
        server.handle_exit(signal.SIGTERM, None)
        thread.join()
    rates = [tuple(len(prompts) * tokens / seconds for seconds in pair) for pair in pairs[1:]]
    print(f"generate {statistics.median(rate for rate, _ in rates):.0f} tokens/s")
    print(f"HTTP     {statistics.median(rate for _, rate in rates):.0f} tokens/s")
    print(f"ratio    {statistics.median(b / a for a, b in rates):.3f}")


def prompts_of(count: int) -> list[str]:
    """Different ones."""
    return [f"{number} things to know about caches:" for number in range(count)]


def offline(llm: LLM, prompts: list[str], tokens: int) -> float:
    """Seconds that generate takes."""
    begun = time.perf_counter()
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
    return time.perf_counter() - begun


def online(port: int, prompts: list[str], tokens: int) -> float:
    """Seconds that as many streams take. The client is woken seldom, as the server's cores are its own."""
    begun = time.perf_counter()
    connections = {one.fileno(): one for one in (ask(port, prompt, tokens) for prompt in prompts)}
    ends = dict.fromkeys(connections, b"")
    with select.epoll() as readable:
        for number in connections:
            readable.register(number, select.EPOLLIN)
        while connections:
            for number, _ in readable.poll():
                more = os.read(number, AT_ONCE)
                if more:
                    ends[number] = more[-END:] if len(more) >= END else (ends[number] + more)[-END:]
                else:
                    readable.unregister(number)
                    connections.pop(number).close()
    assert all(b"[DONE]" in end for end in ends.values()), ends
    return time.perf_counter() - begun


def ask(port: int, prompt: str, tokens: int) -> socket.socket:
    """Begin a stream."""
    fields = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body = json.dumps(fields | {"stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, AT_ONCE)
    connection.sendall(head.encode() + body)
    return connection


if __name__ == "__main__":
    main()
