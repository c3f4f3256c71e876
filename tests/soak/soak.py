"""A server under load for as long as one likes, and what became of it."""

import collections
import contextlib
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asked_alone import ask_alone
from crowd import crowd
from disk import SmallDisk
from known_answers import save
from server_process import ServerProcess
from tiny import write_checkpoint
from until import until

from ellm import LLM

CONTEXT = 2048
DISK, SESSIONS, CACHE = 48 << 20, 32 << 20, 128 << 20  # bytes
TICK = 0.5  # seconds
WARM = 16  # requests at a time, before threads and descriptors are counted
POOL = 4  # threads that may come later, of a pool that grows with what it has to do
GROWTH = 1.05  # of memory, from the second quarter to the last one, that is none
LONG = 600  # seconds behind which growth can be told from a beginning
COUNTERS = ("prompt_tokens", "generation_tokens", "prefix_cache_hits", "num_preemptions")
SOUND = ("ready", "serving ", "using ", "ellm: sessions: ")


class Soak:
    """`processes` of `each` clients ask a server; `faults` says what was wrong, and `report` what happened.

    `known`: how many different requests there are. `often`: of ticks, in which a process is killed, and in which the
    disk becomes full or free. `connections`: how large a crowd comes at the end.
    """

    def __init__(self, folder, *, seed, processes, each, known, often, connections):
        self._folder, self._seed, self._draw = folder, seed, random.Random(seed)
        self._often = often
        self._processes, self._each, self._known, self._connections = processes, each, known, connections
        self._clients, self._kills, self._fills = [], 0, 0
        self.ended = collections.Counter()
        self.faults, self._samples, self._said, self._counters = [], [], [], {}
        self._held = self._crowd = self._disk = "not looked at"

    def run(self, go_on):
        """Until `go_on(seconds, right)` says no."""
        model = write_checkpoint(self._folder / "model", "Qwen3ForCausalLM", max_position_embeddings=CONTEXT)
        with LLM(model, context=CONTEXT, cache_bytes=0, speculate="off", pin="none") as llm:
            known = ask_alone(llm, ServerProcess.name, count=self._known, seed=self._seed, longest=CONTEXT)
        save(self._folder / "known.json", known)
        disk = SmallDisk(self._folder / "disk", DISK)
        options = ["--context", CONTEXT, "--pin", "none", "--cache-bytes", CACHE]
        options += ["--sessions", disk.folder, "--sessions-bytes", SESSIONS]
        try:
            with ServerProcess(model, *options) as server:
                self._serve(server, disk, known, go_on)
        except (AssertionError, OSError) as error:
            self.faults.append(f"the server did not do what it should: {error!r}")
        finally:
            for client in self._clients:
                client.kill()
                client.wait()
            disk.close()

    def _serve(self, server, disk, known, go_on):
        with ThreadPoolExecutor(WARM) as pool:  # so that most threads are there
            list(pool.map(lambda one: server.ask(one.path, one.body), known[:WARM]))
        until(lambda: server.idle)
        before = server.threads, server.descriptors
        self._clients += [self._client(server) for _ in range(self._processes)]
        begun = time.monotonic()
        while self._alive(server) and go_on(passed := time.monotonic() - begun, self.ended["right"]):
            self._samples.append((passed, server.resident_bytes, server.descriptors))
            self._disturb(server, disk)
            time.sleep(TICK)
        if not self._alive(server):
            self.faults.append("the server has ended, or a client has")
            return
        self._come_together(server, known[0])
        for client in self._clients:
            client.kill()
        disk.free(server)
        self._settle(server, before)
        self._counters = {name: server.metric(f"vllm:{name}") for name in COUNTERS}
        if code := server.stop():
            self.faults.append(f"the server ended with code {code}")
        self._check(server, disk)

    def _alive(self, server):
        return server.running and all(client.poll() is None for client in self._clients)

    def _disturb(self, server, disk):
        if self._draw.random() < self._often:
            victim = self._draw.randrange(len(self._clients))
            self._clients[victim].kill()
            self._clients[victim].wait()
            self._clients[victim] = self._client(server)
            self._kills += 1
        if self._draw.random() < self._often:
            (disk.free if disk.full else disk.fill)(server)
            self._fills += disk.full

    @property
    def disturbed(self):
        """Whether a client was killed, and the disk was full."""
        return self._kills and self._fills

    def _client(self, server):
        seed = self._draw.randrange(1 << 32)
        command = [sys.executable, Path(__file__).with_name("client.py"), str(server.port)]
        command += [self._folder / "known.json", str(seed), str(self._each)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process):
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # it was killed within a line
                at, said = json.loads(line)
                kind = said.partition(":")[0]
                self.ended[kind] += 1
                if kind in ("wrong", "broken"):
                    self.faults.append(f"request {at}: {said}")

    def _come_together(self, server, known):
        """A crowd of connections, while others are answered."""
        if not self._connections:
            return
        answered, most = self.ended["right"], 0

        def answered_meanwhile():
            nonlocal most
            most = max(most, server.descriptors)
            return self.ended["right"] > answered + self._processes or not server.running

        with crowd(server.port, self._connections) as held:
            until(answered_meanwhile, 600)
            begun = time.monotonic()
            status, _ = server.ask(known.path, known.body)
            self._crowd = (
                f"{len(held)} connections, descriptors {most}, a request took {time.monotonic() - begun:.1f} s"
            )
        if status != 200:
            self.faults.append(f"in a crowd, a request got status {status}")

    def _settle(self, server, before):
        """All that clients held must be given back."""
        most = before[0] + POOL, before[1]
        with contextlib.suppress(AssertionError):
            until(lambda: server.idle and server.threads <= most[0] and server.descriptors <= most[1], 120)
        after = server.threads, server.descriptors
        self._held = f"threads and descriptors: {before} before, {after} after"
        if after[0] > most[0] or after[1] > most[1]:
            self.faults.append(self._held)

    def _check(self, server, disk):
        kinds = collections.Counter(re.sub(r"/\S+/|[0-9a-f]{16,}|\d+", "#", line) for line in server.said)
        self._said = [f"{count} x {kind}" for kind, count in kinds.most_common()]
        self.faults += [f"it said: {line}" for line in server.said if not line.startswith(SOUND)][:10]
        if self._counters["prefix_cache_hits"] == 0:
            self.faults.append("nothing was found in the cache")
        quarters = self._quarters()
        if self._samples[-1][0] > LONG and quarters[3] > GROWTH * quarters[1]:
            self.faults.append("memory grew from the second quarter to the last one")
        self._disk = "a tmpfs" if disk.mounted else "a limit on the size of files"

    def _quarters(self):
        """The median of what was resident in each, in MB."""
        samples = [resident / 1e6 for _, resident, _ in self._samples]
        edges = [len(samples) * part // 4 for part in range(5)]
        return [statistics.median(samples[begin:end] or samples) for begin, end in itertools.pairwise(edges)]

    def report(self):
        """Lines of what happened."""
        passed = self._samples[-1][0] if self._samples else 0
        yield f"{passed:.0f} s, requests: " + ", ".join(f"{count} {kind}" for kind, count in self.ended.most_common())
        yield f"{self._kills} clients of {self._each} connections killed, the disk {self._fills} times full"
        yield f"full by {self._disk}; " + ", ".join(f"{name} {count:.0f}" for name, count in self._counters.items())
        if self._samples:
            yield "resident, by quarters: " + ", ".join(f"{one:.1f} MB" for one in self._quarters())
            yield f"descriptors under load: {max(held for _, _, held in self._samples)} at most; {self._held}"
        yield f"crowd: {self._crowd}"
        yield from self._said
        yield from (f"FAULT: {fault}" for fault in self.faults[:20])
