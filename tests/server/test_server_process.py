"""A server as a process of its own, on which the kernel and its clients are hard: what that costs whom."""

import json
import resource
import threading
from dataclasses import replace

import pytest
from crowd import crowd
from server_process import ServerProcess
from tiny import write_checkpoint
from until import until

from ellm import LLM, SamplingParams

CONTEXT = 1 << 18  # a sequence reserves hundreds of MB of address space
CROWD = 5000  # more than there may be
PROMPT = list(range(3, 203)) * 4
TOKENS = 600
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "m", "Qwen3ForCausalLM", max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def alone(model):
    """The log probabilities of an answer to a prompt, by the Python API."""
    with LLM(model, cache_bytes=0) as llm:
        known = {}

        def ask(prompt, tokens):
            if (key := (*prompt, tokens)) not in known:
                known[key] = llm.generate([prompt], replace(GREEDY, max_tokens=tokens))[0].logprobs
            return known[key]

        yield ask


def request(prompt, tokens):
    fields = {"model": ServerProcess.name, "prompt": prompt, "max_tokens": tokens}
    return fields | {"temperature": 0, "logprobs": 0, "ignore_eos": True}


def answer(server, prompt, tokens=4):
    """Its log probabilities, and how many tokens of the prompt were cached."""
    status, body = server.ask("/v1/completions", request(prompt, tokens))
    assert status == 200, body
    reply = json.loads(body)
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    return reply["choices"][0]["logprobs"]["token_logprobs"], cached


class Asking(threading.Thread):
    """A client that is being answered meanwhile."""

    def __init__(self, server, prompt, tokens):
        super().__init__()
        self._arguments, self.found = (server, prompt, tokens), None
        self.start()

    def run(self):
        self.found = answer(*self._arguments)[0]


def test_a_crowd_of_connections_costs_nobody_else(model, alone):
    with ServerProcess(model) as server:
        assert answer(server, PROMPT)[0] == alone(PROMPT, 4)
        until(lambda: server.idle)
        before = server.descriptors
        slow = Asking(server, PROMPT, TOKENS)
        with crowd(server.port, CROWD) as held:
            assert len(held) > 2000, "this process may not have so many descriptors"
            assert answer(server, PROMPT)[0] == alone(PROMPT, 4)
            slow.join()
            assert server.descriptors > 1000
        assert slow.found == alone(PROMPT, TOKENS)
        until(lambda: server.descriptors <= before)
        assert server.stop() == 0
        assert [*server.said][2:] == []


def test_a_full_disk_costs_the_files_of_sessions_alone(model, alone, tmp_path):
    with ServerProcess(model, "--sessions", tmp_path) as server:
        server.limit(resource.RLIMIT_FSIZE, 0)
        assert answer(server, PROMPT)[0] == alone(PROMPT, 4)
        until(lambda: len(server.said) > 2)
        assert answer(server, [*PROMPT, 9])[0] == alone([*PROMPT, 9], 4)
        until(lambda: len(server.said) > 3)
        assert all(line.startswith("ellm: sessions: cannot write") for line in [*server.said][2:])
        assert all(line.endswith(": File too large") for line in [*server.said][2:])
        assert not list(tmp_path.iterdir())
        server.limit(resource.RLIMIT_FSIZE, None)
        assert answer(server, [*PROMPT, 9, 9])[0] == alone([*PROMPT, 9, 9], 4)
        assert server.stop() == 0
    with LLM(model, sessions=tmp_path) as llm:
        (output,) = llm.generate([[*PROMPT, 9, 9]], GREEDY)
        assert (output.logprobs, output.metrics.cached_tokens) == (alone([*PROMPT, 9, 9], 4), len(PROMPT))


@pytest.mark.parametrize("sessions", [False, True])
def test_a_sequence_without_memory_fails_alone(model, alone, tmp_path, sessions):
    """Others are answered to the end, and it is when there is memory again."""
    if sessions:
        with LLM(model, sessions=tmp_path) as llm:
            llm.generate([PROMPT], GREEDY)
    with ServerProcess(model, *(["--sessions", tmp_path] if sessions else [])) as server:
        slow = Asking(server, [7, *PROMPT], TOKENS)
        until(lambda: server.metric("vllm:generation_tokens") > 1)
        server.limit(resource.RLIMIT_AS, 1024 * int(server.status("VmSize")) + (64 << 20))
        status, body = server.ask("/v1/completions", request(PROMPT, 4))
        error = json.loads(body)["error"]
        assert (status, error["code"]) == (503, "generation_failed")
        assert "address space for the KV range of a sequence" in error["message"]
        server.limit(resource.RLIMIT_AS, None)
        assert answer(server, PROMPT)[0] == alone(PROMPT, 4)
        slow.join()
        assert slow.found == alone([7, *PROMPT], TOKENS)
        assert server.stop() == 0
        assert [*server.said][2:] == []
