"""What clients see of ellm beside llama-server: streams while a long prompt arrives, and the turns of an agent.

python bench/clients.py FILE.gguf [--prompt 8000] [--streams 8] [--tokens 192] [--turns 20] [--tool 550] [--threads N]

FILE is one of make_gguf.py, whose answers say which tokens they are. `llama-server` must be on PATH: it is built as
peers.py says, by `--target llama-server`. Both serve the same file on as many threads, one after the other in the same
run, and are asked the same by OpenAI's client, with ids of random tokens for prompts and answers of a fixed length.

The long prompt is sent while streams are under way, which have had a few tokens and have more to come than the prompt
takes. Of ellm another one was sent alone before, which tells how many rows are lost: how much slower those of prompt
and streams were together than a prompt's alone. No stream is to wait longer than twice its median gap without it,
and one row block. --prompt 0 leaves this out.

The agent sends back all that was said, the tokens of the answer as they came, and what a tool said to it; told is how
many of these tokens a server computed. Both are started anew after half of the turns, ellm with the folder of sessions
that it had. Counts are the same with few layers (make_gguf.py --layers 2). --turns 0 leaves this out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from openai import AsyncOpenAI, OpenAIError

from ellm.kernels import isa as isas

PEER = "llama-server"
OURS = [sys.executable, "-c", "from ellm.cli.main import main; main()", "serve"]
FIRST, VOCAB = 258, 100_000  # tokens of make_gguf.py that are written as their numbers
AHEAD = 8  # tokens of each stream before the prompt comes
ANSWER = 32  # tokens of an agent's turn
BIAS = {str(token): -100 for token in range(FIRST)}  # so that answers are of those tokens
READY = 300  # seconds


@dataclass
class Reply:
    """When each token came, in seconds of one clock, and what was said of them."""

    sent: float
    came: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt: int = 0
    cached: int = 0

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.came[0] - self.sent


@dataclass
class Beside:
    """What a long prompt and streams were to each other: seconds, and tokens a second of all."""

    alone: float | None
    block: float  # a row block behind the prompt
    first: float
    rows: int  # of the prompt, and of the streams until its first token
    before: list[float]
    during: list[float]
    rate: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    for name, default in (("prompt", 8000), ("streams", 8), ("tokens", 192), ("turns", 20), ("tool", 550)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if shutil.which(PEER) is None:
        parser.error(f"{PEER} is not on PATH; --help says how to get it")
    print("| | ellm | llama-server |\n|---|---|---|")
    if arguments.prompt:
        show(*(long_prompt(name, arguments) for name in ("ellm", PEER)), arguments)
    if arguments.turns:
        for number, counts in enumerate(zip(*(agent(name, arguments) for name in ("ellm", PEER)), strict=True)):
            known, new = counts[0][:2]
            print(f"| turn {number + 1}: {known + new} tokens, {new} new | {counts[0][2]} | {counts[1][2]} |")


def long_prompt(name: str, arguments: argparse.Namespace) -> Beside:
    """Measure a server with a prompt alone, and beside streams."""
    own = 128 + arguments.tokens
    whole = arguments.prompt + 512
    shared = ["-np", arguments.streams + 1, "-kvu", "-c", whole + arguments.streams * own]
    options = ["--context", max(whole, own), "--speculate", "off"] if name == "ellm" else shared
    with server(name, arguments, options) as url:
        return asyncio.run(beside(url, arguments, alone=name == "ellm"))


async def beside(url: str, arguments: argparse.Namespace, alone: bool) -> Beside:
    """The streams begin, then the prompt is sent; until all have ended."""
    seconds, block = None, 0.0
    random = np.random.default_rng(0)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=3600) as client:
        first = random_tokens(random, min(600, arguments.prompt))
        await ask(client, first, 4)  # touches memory, and lets ellm time its steps
        if alone:
            given = random_tokens(random, arguments.prompt)
            seconds = (await ask(client, given, 1)).first
            more = random_tokens(random, isas.ROW_BLOCK[isas.choose().isa])
            block = (await ask(client, given + more, 1)).first
        replies = [Reply(time.perf_counter()) for _ in range(arguments.streams)]
        streams = [
            asyncio.create_task(ask(client, random_tokens(random, 128), arguments.tokens, reply)) for reply in replies
        ]
        while min(len(reply.came) for reply in replies) < AHEAD and not any(stream.done() for stream in streams):
            await asyncio.sleep(0.001)
        prompt = await ask(client, random_tokens(random, arguments.prompt), 1)
        await asyncio.gather(*streams)
    begun, ended = prompt.sent, prompt.came[0]
    together = max(reply.came[0] for reply in replies)
    pairs = [pair for reply in replies for pair in zip(reply.came, reply.came[1:], strict=False)]
    streamed = sum(begun < time <= ended for reply in replies for time in reply.came)
    tokens = arguments.prompt + arguments.streams * (128 + arguments.tokens)
    last = max(ended, *(reply.came[-1] for reply in replies))
    return Beside(
        alone=seconds,
        block=block,
        first=prompt.first,
        rows=arguments.prompt + streamed,
        before=[after - before for before, after in pairs if together <= before and after <= begun],
        during=[after - before for before, after in pairs if after > begun and before < ended],
        rate=tokens / (last - min(reply.sent for reply in replies)),
    )


async def ask(client: AsyncOpenAI, prompt: list[int], tokens: int, reply: Reply | None = None) -> Reply:
    """Stream an answer of so many tokens."""
    reply = reply or Reply(0)
    fields: dict[str, Any] = {"temperature": 0, "logit_bias": BIAS, "stream_options": {"include_usage": True}}
    reply.sent = time.perf_counter()
    stream = await client.completions.create(
        model="model", prompt=prompt, max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}, **fields
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].text:
            found = [int(number) for number in re.findall(r"\[(\d+)\]", chunk.choices[0].text)]
            reply.came += [time.perf_counter()] * len(found)
            reply.tokens += found
        if chunk.usage is not None:
            assert chunk.usage.prompt_tokens_details is not None
            reply.prompt, reply.cached = chunk.usage.prompt_tokens, chunk.usage.prompt_tokens_details.cached_tokens or 0
    assert len(reply.tokens) == tokens, f"{len(reply.tokens)} tokens came of {tokens}"
    return reply


def show(ours: Beside, peer: Beside, arguments: argparse.Namespace) -> None:
    """The rows of the long prompt."""
    assert ours.alone is not None
    each = ours.alone / arguments.prompt
    most = 2 * statistics.median(ours.before) + ours.block
    print(f"| first token of {arguments.prompt} alone, s | {ours.alone:.2f} | |")
    print(f"| rows lost beside {arguments.streams} streams, % | {100 * (1 - ours.rows * each / ours.first):.1f} | |")
    print(f"| twice the median gap, and a row block behind the prompt, ms | {1e3 * most:.1f} | |")
    rows: list[tuple[str, str, list[float]]] = [
        (f"first token beside {arguments.streams} streams, s", ".2f", [one.first for one in (ours, peer)]),
        ("median gap without it, ms", ".1f", [1e3 * statistics.median(one.before) for one in (ours, peer)]),
        ("median gap beside it, ms", ".1f", [1e3 * statistics.median(one.during) for one in (ours, peer)]),
        ("p99 gap beside it, ms", ".1f", [1e3 * float(np.quantile(one.during, 0.99)) for one in (ours, peer)]),
        ("longest gap beside it, ms", ".1f", [1e3 * max(one.during) for one in (ours, peer)]),
        ("tokens/s, of prompts and answers", ".1f", [one.rate for one in (ours, peer)]),
    ]
    for name, form, values in rows:
        print(f"| {name} | {values[0]:{form}} | {values[1]:{form}} |", flush=True)


def agent(name: str, arguments: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Of each turn: tokens that the server has had before, new ones, and how many it computed of both."""
    random = np.random.default_rng(1)
    context = 2 * arguments.tool + arguments.turns * (arguments.tool + ANSWER)
    prompt, known, found = random_tokens(random, 2 * arguments.tool), 0, []
    with tempfile.TemporaryDirectory() as folder:
        options = ["--context", context, "--sessions", folder] if name == "ellm" else ["-np", 1, "-c", context]
        for begin in (0, arguments.turns // 2):
            end = arguments.turns if begin else arguments.turns // 2
            with server(name, arguments, options) as url:
                for _ in range(begin, end):
                    reply = asyncio.run(one_turn(url, prompt))
                    found.append((known, len(prompt) - known, reply.prompt - reply.cached))
                    known = len(prompt) + ANSWER - 1  # the last token of an answer is drawn, but not computed
                    prompt += reply.tokens + random_tokens(random, arguments.tool)
    return found


async def one_turn(url: str, prompt: list[int]) -> Reply:
    """Ask once."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=3600) as client:
        return await ask(client, prompt, ANSWER)


def random_tokens(random: np.random.Generator, count: int) -> list[int]:
    """So many ids."""
    return random.integers(FIRST, VOCAB, count).tolist()


@contextmanager
def server(name: str, arguments: argparse.Namespace, options: list[Any]) -> Iterator[str]:
    """Where one listens while it runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threads = ["--threads", arguments.threads]
    ours = [*OURS, arguments.file, "--name", "model", *threads]
    command = ours if name == "ellm" else [PEER, "-m", arguments.file, *threads, "-tb", arguments.threads]
    command += ["--port", port, *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            if not asyncio.run(answers(url, process)):
                log.seek(0)
                sys.exit(f"{name} does not answer: {(log.read().strip().splitlines() or ['it printed nothing'])[-1]}")
            yield url
        finally:
            process.terminate()
            process.wait()


async def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server does, once it has loaded its model."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(10 * READY):
            try:
                await ask(client, [FIRST], 1)
            except OpenAIError:
                if process.poll() is not None:
                    return False
                await asyncio.sleep(0.1)
            else:
                return True
    return False


if __name__ == "__main__":
    main()
