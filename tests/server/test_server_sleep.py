"""A server whose model is given back while nobody asks: what it tells of itself, what clients see, and how it ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from browser import Opened, chromium
from served import NAME, serving
from tiny import write_checkpoint
from until import until

from ellm import LLM

CHAT = "/v1/chat/completions"
SHORT = {"model": NAME, "messages": [{"role": "user", "content": "the"}], "temperature": 0, "max_tokens": 4}
ALIVE = ("/health", "/ready", "/status", "/metrics", "/v1/models", "/api/tags", "/")
WEIGHTS, ARENA = 105_000_000, 4_000_000  # bytes of SmolLM2, at least
BUSY_TICKS = 50  # of a hundred a second: far more than an idle server takes in two seconds, less than a busy thread


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model", "Qwen3MoeForCausalLM")


@pytest.fixture
def sleeper(folder):
    with LLM(folder, idle=0.1) as llm, serving(llm) as running:
        running.folder = folder
        yield running


def asleep(running):
    until(lambda: status(running)["asleep"])


def status(running):
    return json.loads(running.ask("GET", "/status")[2])["statistics"]


def metric(running, name):
    text = running.ask("GET", "/metrics")[2].decode()
    return float(re.search(rf'^{name}{{model_name="tiny"}} (\S+)$', text, re.MULTILINE)[1])


def content(reply):
    code, _, body = reply
    assert code == 200, body
    return json.loads(body)["choices"][0]["message"]["content"]


def test_whoever_watches_sees_the_truth_and_wakes_nothing(sleeper):
    expected = content(sleeper.ask("POST", CHAT, SHORT))
    asleep(sleeper)
    before = status(sleeper)
    assert all(sleeper.ask("GET", path)[0] == 200 for path in ALIVE)
    assert sleeper.ask("POST", "/tokenize", {"model": NAME, "prompt": "the"})[0] == 200
    assert json.loads(sleeper.ask("GET", "/ready")[2]) == {"status": "asleep"}
    assert json.loads(sleeper.ask("GET", "/health")[2]) == {"status": "ok"}
    layers = json.loads(sleeper.ask("GET", "/status")[2])["experts"]
    assert layers and all(layer["woken"] == [] for layer in layers)
    assert status(sleeper) == before and before["prefix_bytes"] == 0
    assert [metric(sleeper, f"ellm:{name}") for name in ("asleep", "wakes_total")] == [1, before["wakes"]]
    assert content(sleeper.ask("POST", CHAT, SHORT)) == expected
    asleep(sleeper)
    assert metric(sleeper, "ellm:wakes_total") == before["wakes"] + 1 == metric(sleeper, "ellm:sleeps_total") - 1
    assert 0 < metric(sleeper, "ellm:last_wake_seconds") == status(sleeper)["wake_seconds"]


def test_files_that_are_gone_are_503_for_each_request_until_they_are_back(sleeper):
    expected = content(sleeper.ask("POST", CHAT, SHORT))
    asleep(sleeper)
    weights = sleeper.folder / "model.safetensors"
    weights.rename(sleeper.folder / "away")
    found = []
    threads = [threading.Thread(target=lambda: found.append(sleeper.ask("POST", CHAT, SHORT))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [code for code, *_ in found] == [503] * 5
    said = (
        "the model is asleep and cannot be woken: tiny/model.safetensors: cannot be opened: No such file or directory"
    )
    assert {json.loads(body)["error"]["message"] for *_, body in found} == {said}
    streamed = sleeper.ask("POST", CHAT, {**SHORT, "stream": True})[2].decode().split("\n\n")
    assert json.loads(streamed[-2].removeprefix("data: "))["error"]["message"] == said
    assert json.loads(sleeper.ask("GET", "/ready")[2]) == {"status": "asleep"}
    weights.write_bytes(b"no")
    code, _, body = sleeper.ask("POST", CHAT, SHORT)
    assert code == 503 and b"tiny/model.safetensors: is not what it was: it has 2 bytes of " in body
    (sleeper.folder / "away").rename(weights)
    assert content(sleeper.ask("POST", CHAT, SHORT)) == expected


def test_the_page_says_that_the_model_sleeps(sleeper):
    asleep(sleeper)
    with chromium() as browser:
        page = Opened(browser, sleeper.url)
        page.tab.wait_for_selector("#facts:has-text('asleep: the next question wakes it')")
        sleeper.ask("POST", CHAT, SHORT)
        page.tab.wait_for_selector("#facts:has-text('asleep: the next question wakes it')")
        assert page.messages == []
        page.tab.close()


@contextlib.contextmanager
def command(*options):
    """`ellm serve` of SmolLM2 that sleeps, and its address."""
    run = [sys.executable, "-m", "ellm.cli.main", "serve", "smollm2", "--port", "0", "--idle", "0.5", *options]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=os.environ | {"ELLM_API_KEY": ""})
    try:
        url = None
        for line in process.stderr:
            if found := re.search(r"serving smollm2 on (http://\S+),", line):
                url = found[1]
            if line == "ready\n":
                break
        yield process, url
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(url):
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Tell me about rivers. " * 150}]}
    body |= {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    reply = urllib.request.urlopen(urllib.request.Request(f"{url}{CHAT}", json.dumps(body).encode()), timeout=300)
    return json.load(reply)["choices"][0]["message"]["content"]


def told(url):
    return json.load(urllib.request.urlopen(f"{url}/status", timeout=60))["statistics"]


def resident(process):
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


def ticks(process):
    """Processor time that all threads have taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_server_asleep_takes_no_time_and_little_memory_and_answers_the_same(tmp_path):
    with command("--sessions", str(tmp_path)) as (process, url):
        expected, awake = ask(url), resident(process)
        until(lambda: told(url)["asleep"])
        slept, before = resident(process), ticks(process)
        time.sleep(2)
        assert ticks(process) - before < BUSY_TICKS
        assert awake - slept > WEIGHTS + ARENA
        assert ask(url) == expected
        now = told(url)
        assert now["wakes"] >= 1 and now["prefix_hits"] > 512
        assert resident(process) < 1.15 * awake
        until(lambda: told(url)["asleep"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_signal_while_it_wakes_is_a_drain(tmp_path):
    with command() as (process, url):
        until(lambda: told(url)["asleep"])
        answered = []
        asking = threading.Thread(target=lambda: answered.append(ask(url)))
        asking.start()
        until(lambda: (now := told(url))["waiting"] or now["wakes"])
        process.send_signal(signal.SIGTERM)
        asking.join(120)
        assert process.wait(60) == 0 and len(answered) == 1 and answered[0]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_seconds_that_are_none_are_refused(in_process, folder, seconds):
    code, out, err = in_process("serve", folder, "--port", "0", "--idle", seconds)
    assert (code, out) == (2, "") and "idle must be a number of seconds above 0" in err
