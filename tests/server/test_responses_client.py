"""OpenAI's official client with its Responses."""

import openai
import pytest
from served import NAME

from ellm import SamplingParams

TEXT = "the end of another one"
GREEDY = {"temperature": 0, "max_output_tokens": 12}
PARAMS = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_an_answer_is_that_of_the_python_api(client, llm):
    (output,) = llm.chat([{"role": "system", "content": "be"}, {"role": "user", "content": TEXT}], PARAMS)
    for given in (TEXT, [{"role": "user", "content": TEXT}]):
        reply = client.responses.create(model=NAME, input=given, instructions="be", **GREEDY)
        assert (reply.output_text, reply.status) == (output.text, "incomplete")
        assert reply.incomplete_details.reason == "max_output_tokens"
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (len(output.prompt_token_ids), 12)


def test_a_stream_is_the_same_in_events(client, llm):
    (output,) = llm.chat([{"role": "user", "content": TEXT}], PARAMS)
    events = list(client.responses.create(model=NAME, input=TEXT, stream=True, **GREEDY))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert "".join(event.delta for event in events if event.type.endswith("text.delta")) == output.text
    assert events[-1].response.output_text == output.text


def test_an_answer_can_be_sent_back_as_it_came(client, llm):
    first = client.responses.create(model=NAME, input=TEXT, **GREEDY)
    said = [{"role": "user", "content": TEXT}, *first.output, {"role": "user", "content": "on"}]
    again = client.responses.create(model=NAME, input=said, **GREEDY)
    plain = [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "on"},
    ]
    assert again.output_text == llm.chat(plain, PARAMS)[0].text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ],
)
def test_what_is_not_done_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": NAME, "input": TEXT, **fields})
    assert caught.value.param == param


def test_what_agents_send_is_taken(client):
    fields = {"store": False, "include": ["reasoning.encrypted_content"], "parallel_tool_calls": True, "tools": []}
    fields |= {"reasoning": {"effort": "medium", "summary": "auto"}, "tool_choice": "auto", "prompt_cache_key": "x"}
    assert client.responses.create(model=NAME, input=TEXT, **fields, **GREEDY).output_text


def test_reasoning_is_an_item_of_its_own(thinker):
    with openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model=NAME, input=TEXT)
        *_, last = client.responses.create(model=NAME, input=TEXT, stream=True)
        chat = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": TEXT}])
        again = client.responses.create(model=NAME, input=[{"role": "user", "content": TEXT}, *whole.output])
    for reply in (whole, last.response):
        assert [item.type for item in reply.output] == ["reasoning", "message"]
        assert (reply.output[0].content[0].text, reply.output_text, reply.status) == ("iner", "anthe", "completed")
        assert reply.usage.output_tokens_details.reasoning_tokens > 0
    message = chat.choices[0].message
    assert (message.content, message.model_extra["reasoning_content"]) == ("anthe", "iner")
    assert again.output_text == "anthe"
