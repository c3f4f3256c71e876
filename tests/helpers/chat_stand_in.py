"""Stands in for a server of a model behind its page: says what a test wrote down, and remembers what it was asked."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ellm.pages.serve import serve_page

STATISTICS = {
    "waiting": 3,
    "running": 2,
    "queued_tokens": 1234,
    "kv_bytes": 50_000_000,
    "preemptions": 1,
    "prefix_queries": 400,
    "prefix_hits": 100,
    "prompt_tokens": 0,
    "generated_tokens": 0,
    "steps": 0,
    "step_seconds": 0.0,
}


class StandIn(ThreadingHTTPServer):
    """`script` are deltas, ("error", message) or "wait" (until `go` is set); `key` is wanted if it is not None."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.script, self.key, self.asked, self.go = [], None, [], threading.Event()
        self.left = threading.Event()  # a client has gone in the middle of an answer
        self.seconds = 0.0
        self.experts = [{"name": f"layers.{i}", "experts": 8, "woken": [i, 7]} for i in range(3)]

    def status(self):
        """Each second 5 steps of 0.1 s and 20 tokens; core 1 works half of the time."""
        self.seconds += 1
        counts = {"steps": 5, "step_seconds": 0.5, "generated_tokens": 20, "prompt_tokens": 100}
        grown = {name: each * self.seconds for name, each in counts.items()}
        cores = [{"core": 0, "seconds": self.seconds}, {"core": 1, "seconds": self.seconds / 2}]
        statistics = STATISTICS | grown
        return {
            "seconds": self.seconds,
            "context": 4096,
            "statistics": statistics,
            "cores": cores,
            "experts": self.experts,
        }


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_):
        pass

    def reply(self, content, kind="application/json", status=200):
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self):
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return False
        self.reply({"error": {"message": "there is no API key"}}, status=401)
        return True

    def do_GET(self):
        if self.path == "/":
            self.reply(serve_page(), "text/html")
        elif not self.refused():
            self.reply(self.server.status() if self.path == "/status" else {"data": [{"id": "tiny"}, {"id": "other"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.refused():
            return
        if body["messages"][-1]["content"] == "refuse":
            self.reply({"error": {"message": "temperature must be at least 0, not -1"}}, status=400)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self.say(": \n\n")
            self.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for part in self.server.script:
                self.part(part)
            self.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
            details = {"cached_tokens": 30}
            self.event(
                {
                    "choices": [],
                    "usage": {"prompt_tokens": 40, "completion_tokens": 7, "prompt_tokens_details": details},
                }
            )
            self.say("data: [DONE]\n\n")
        except OSError:
            self.server.left.set()

    def part(self, part):
        if part == "wait":
            while not self.server.go.wait(0.02):
                self.say(": \n\n")
        elif isinstance(part, tuple):
            self.event({"error": {"message": part[1]}})
        else:
            self.event({"choices": [{"delta": part}]})

    def event(self, value):
        self.say(f"data: {json.dumps(value)}\n\n")

    def say(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()


@contextmanager
def standing_in():
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go.set()
        server.shutdown()
        server.server_close()
