"""Anthropic's official client."""

import anthropic
import pytest
from served import NAME

from ellm import SamplingParams

MESSAGES = [{"role": "user", "content": "the end of another one"}]
GREEDY = {"temperature": 0}  # which the newest client leaves to extra_body


@pytest.fixture(scope="module")
def client(served):
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def expected(llm):
    (output,) = llm.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=12))
    return output


def test_an_answer_is_that_of_the_python_api(client, expected):
    reply = client.messages.create(model=NAME, messages=MESSAGES, max_tokens=12, extra_body=GREEDY)
    assert [block.text for block in reply.content] == [expected.text]
    assert (reply.role, reply.type, reply.stop_reason) == ("assistant", "message", "max_tokens")
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens == len(expected.prompt_token_ids)
    assert reply.usage.output_tokens == 12


def test_a_stream_is_the_same_in_events(client, expected):
    with client.messages.stream(model=NAME, messages=MESSAGES, max_tokens=12, extra_body=GREEDY) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_message()
    assert [block.text for block in reply.content] == [expected.text]
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 12)
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert [kind for kind in kinds if kind != "text"][-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_stop_sequence_is_named(client, expected):
    stop = expected.text[3:5]
    reply = client.messages.create(
        model=NAME, messages=MESSAGES, max_tokens=12, extra_body=GREEDY, stop_sequences=["never", stop]
    )
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", stop)
    assert reply.content[0].text == expected.text[: expected.text.index(stop)]


def test_system_and_blocks_are_those_of_a_conversation(client, llm):
    system = [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}]
    said = [
        {"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": "end"}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "so", "signature": ""}, {"type": "text", "text": "on"}],
        },
        {"role": "user", "content": "on"},
    ]
    plain = [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "the\nend"},
        {"role": "assistant", "content": "on"},
        {"role": "user", "content": "on"},
    ]
    ids = llm.tokenizer.chat(plain)
    assert client.messages.count_tokens(model=NAME, system=system, messages=said).input_tokens == len(ids)
    reply = client.messages.create(model=NAME, system=system, messages=said, max_tokens=9, extra_body=GREEDY)
    assert reply.content[0].text == llm.chat(plain, SamplingParams(temperature=0, max_tokens=9))[0].text


def test_the_system_may_speak_between_turns(client, llm):
    said = [*MESSAGES, {"role": "system", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "in"}]}]
    ids = llm.tokenizer.chat([*MESSAGES, {"role": "system", "content": "be\nin"}])
    assert client.messages.count_tokens(model=NAME, messages=said).input_tokens == len(ids)


def test_a_context_whose_thoughts_are_kept_is_the_same(client):
    def ask(keep):
        edits = [{"type": "clear_thinking_20251015", "keep": keep}]
        context = {"context_management": {"edits": edits}}
        return client.messages.create(model=NAME, messages=MESSAGES, max_tokens=2, extra_body=GREEDY | context)

    plain = client.messages.create(model=NAME, messages=MESSAGES, max_tokens=2, extra_body=GREEDY)
    assert ask("all").content == plain.content
    with pytest.raises(anthropic.BadRequestError, match=r"context_management\.edits\[0\]\.keep is not supported here"):
        ask({"type": "thinking_turns", "value": 1})


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", {"type": "thinking", "thinking": "so"}),
        ("user", {"type": "tool_use", "id": "1", "name": "f", "input": {}}),
        ("assistant", {"type": "tool_result", "tool_use_id": "1", "content": "so"}),
        ("system", {"type": "tool_result", "tool_use_id": "1", "content": "so"}),
    ],
)
def test_a_block_of_another_role_is_refused(client, role, block):
    said = [*MESSAGES, {"role": role, "content": [{"type": "text", "text": "so"}, block]}]
    with pytest.raises(anthropic.BadRequestError, match=rf"messages\[1\]\.content\[1\]\.type: {role} has text"):
        client.messages.create(model=NAME, messages=said, max_tokens=2)


def test_errors_have_their_shape(client, llm):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=NAME, messages=[{"role": "user", "content": "the " * llm.context}], max_tokens=1)
    error = caught.value.body
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert str(llm.context) in error["error"]["message"]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", messages=MESSAGES, max_tokens=1)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            {"type": "image", "source": {"type": "url", "url": "http://x"}},
            "messages[0].content[0].type must be one of 'text', 'thinking', 'tool_use', 'tool_result', not 'image'",
        ),
        ({"text": "so"}, "messages[0].content[0].type is missing"),
        ({"type": "text"}, "messages[0].content[0].text is missing"),
    ],
)
def test_blocks_that_are_refused_are_named(client, block, words):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=NAME, messages=[{"role": "user", "content": [block]}], max_tokens=1)
    assert words in str(caught.value)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list().data] == [NAME, "other"]


def test_thinking_is_a_block_of_its_own(thinker):
    with anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0) as client:
        asked = {"model": NAME, "messages": MESSAGES, "max_tokens": 20}
        reply = client.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1024})
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    for one in (reply, streamed):
        assert [block.type for block in one.content] == ["thinking", "text"]
        assert (one.content[0].thinking, one.content[1].text, one.stop_reason) == ("iner", "anthe", "end_turn")
