"""`ellm serve` as a process of its own, and what the kernel says that it holds."""

import http.client
import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from until import until

COMMAND = [sys.executable, "-m", "ellm.cli.main"]
MOST_LINES = 10_000  # of what it says, that are kept


class ServerProcess:
    """Serves a model as `name` on `port`; `said` are the last lines of its stderr."""

    name = "tiny"

    def __init__(self, model, *options):
        command = [*COMMAND, "serve", str(model), "--port", "0", "--name", self.name, *map(str, options)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        self.pid = self._process.pid
        self.said = deque(maxlen=MOST_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: "ready" in self.said or self._process.poll() is not None, 120)
        served = [found for line in self.said if (found := re.search(r"^serving .* on http://.*:(\d+),", line))]
        assert served and self.running, "\n".join(self.said)
        self.port = int(served[0][1])

    def _read(self):
        for line in self._process.stderr:
            self.said.append(line.rstrip("\n"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def running(self):
        return self._process.poll() is None

    def ask(self, path, body=None, timeout=120):
        """Status and body of a reply: of a POST if there is a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def metric(self, name):
        """The sum of a gauge or counter of /metrics, by vLLM's name."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(_total)?[{{ ]", line))

    @property
    def idle(self):
        """Whether no request is under way."""
        return not (self.metric("vllm:num_requests_running") or self.metric("vllm:num_requests_waiting"))

    @property
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def threads(self):
        return int(self.status("Threads"))

    @property
    def resident_bytes(self):
        return int(self.status("VmRSS")) * 1024

    def status(self, field):
        """A number of /proc/PID/status."""
        return re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)[1]

    def limit(self, what, most):
        """From now on; None takes the limit away."""
        hard = resource.prlimit(self.pid, what)[1]
        resource.prlimit(self.pid, what, (hard if most is None else most, hard))

    def stop(self):
        """Ask it to end, and wait; its exit code."""
        self._process.terminate()
        code = self._process.wait(120)
        self._reader.join(60)
        return code

    def kill(self):
        """`kill -9`, if it runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join(60)
        self._process.stderr.close()
