"""An agent's 20 turns, to 12,000 tokens: each computes what is new, also the first one after a restart."""

import random
import string

import openai
import pytest
from agent_model import ANSWER, write_agent_model
from served import NAME, serving

from ellm import LLM
from ellm.kernels.contract import SPLIT
from ellm.serving.prefix_cache import LEAST

TURNS, LENGTH, CONTEXT = 20, 12_000, 1 << 14
TOOLS = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}]
RANDOM = random.Random(0)


def news():
    """A turn's share of text."""
    return "".join(RANDOM.choices(string.ascii_letters, k=LENGTH // TURNS))


def turn(served, messages):
    """The reply to all that was said, which goes on with it and with what follows."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
    message = reply.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    if message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": news()})
    else:
        assert message.content == ANSWER
        messages.append({"role": "user", "content": news()})
    return reply.usage


@pytest.mark.parametrize("restarts", [(), (TURNS // 2, TURNS // 2 + 1)])
def test_a_turn_computes_its_new_tokens(tmp_path, restarts):
    model = write_agent_model(tmp_path / "model", "read", {"path": "notes.txt"}, CONTEXT)
    sessions = tmp_path / "sessions" if restarts else None
    messages, known = [{"role": "user", "content": news()}], 0
    for begin, end in zip((0, *restarts), (*restarts, TURNS), strict=True):
        with LLM(model, threads=2, sessions=sessions) as llm, serving(llm) as served:
            computed = 0
            for _ in range(begin, end):
                usage = turn(served, messages)
                rest, cached = known % SPLIT, usage.prompt_tokens_details.cached_tokens
                assert cached == known - (rest if rest < LEAST else 0)
                computed += usage.prompt_tokens - cached
                known = usage.prompt_tokens + usage.completion_tokens - 1  # the last token is drawn, not computed
            assert computed == llm.statistics().prompt_tokens
    assert known > LENGTH
