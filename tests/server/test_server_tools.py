"""Calls of tools through each official client, and what came of them sent back."""

import json

import anthropic
import ollama
import openai
import pytest
from served import NAME

QUESTION = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}}}
FUNCTION = {"name": "time", "description": "the time", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
WANTED = {"zone": "CET"}


@pytest.fixture(scope="module")
def client(caller):
    with openai.OpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_chat_completions(client, caller):
    asked = {"model": NAME, "messages": QUESTION, "tools": TOOLS, "temperature": 0}
    (choice,) = client.chat.completions.create(**asked).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look:")
    assert (call.function.name, json.loads(call.function.arguments), call.type) == ("time", WANTED, "function")
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    deltas = [one for choice in chunks for one in choice.delta.tool_calls or ()]
    assert (deltas[0].function.name, deltas[0].type, deltas[0].id) == ("time", "function", call.id)
    assert all(one.index == 0 and one.id is None and one.function.name is None for one in deltas[1:])
    assert json.loads("".join(one.function.arguments for one in deltas)) == WANTED
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_conversation_with_a_call_goes_on(client, caller):
    first = client.chat.completions.create(model=NAME, messages=QUESTION, tools=TOOLS, temperature=0)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "noon"}
    said = [*QUESTION, message.model_dump(exclude_none=True), result]
    rendered = caller.ask("POST", "/v1/chat/completions/render", {"model": NAME, "messages": said, "tools": TOOLS})[2]
    prompt = json.loads(rendered)["prompt"]
    assert prompt.startswith("time;user:hi") and prompt.endswith("tool:noon\n")
    assert f'<tool_call>time{{"zone": "CET"}}{message.tool_calls[0].id}</tool_call>' in prompt
    assert client.chat.completions.create(model=NAME, messages=said, tools=TOOLS).choices


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_there_are_no_calls(client, more):
    (choice,) = client.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, **more).choices
    assert choice.message.tool_calls is None and "<tool_call>" in choice.message.content
    assert choice.finish_reason == "stop"


def test_a_call_can_be_demanded(client):
    named = {"type": "function", "function": {"name": "time"}}
    for choice in ("required", named):
        (one,) = client.chat.completions.create(
            model=NAME, messages=QUESTION, tools=TOOLS, tool_choice=choice, max_tokens=100
        ).choices
        assert one.message.tool_calls[0].function.name == "time" or one.finish_reason == "length"
    flat = {"tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "time"}}
    assert client.responses.create(model=NAME, input="hi", max_output_tokens=100, **flat).tool_choice.name == "time"


def test_responses(client):
    tools = [{"type": "function", **FUNCTION}]
    asked = {"model": NAME, "input": "hi", "tools": tools, "temperature": 0}
    reply = client.responses.create(**asked)
    message, call = reply.output
    assert (reply.output_text, reply.status, message.type, call.type) == (
        "Look:",
        "completed",
        "message",
        "function_call",
    )
    assert (call.name, json.loads(call.arguments)) == ("time", WANTED)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type.removeprefix("response.") for event in stream]
        last = stream.get_final_response().output[-1]
    assert (last.name, last.arguments, last.call_id) == (call.name, call.arguments, call.call_id)
    assert "function_call_arguments.delta" in kinds and kinds[-1] == "completed"
    said = [{"role": "user", "content": "hi"}, *reply.output]
    said.append({"type": "function_call_output", "call_id": call.call_id, "output": "noon"})
    assert client.responses.create(**asked | {"input": said}).output


def test_anthropic(caller):
    tools = [{"name": "time", "description": "the time", "input_schema": SCHEMA}]
    asked = {"model": NAME, "messages": QUESTION, "tools": tools, "max_tokens": 40, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=caller.url, api_key="none", max_retries=0) as client:
        reply = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for one in (reply, streamed):
            text, use = one.content
            assert (text.text, use.type, use.name, use.input) == ("Look:", "tool_use", "time", WANTED)
            assert one.stop_reason == "tool_use"
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "noon"}]}
        said = [*QUESTION, {"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
        assert client.messages.create(**asked | {"messages": said}).content
        counted = client.messages.count_tokens(model=NAME, messages=QUESTION, tools=tools).input_tokens
        assert counted == reply.usage.input_tokens + reply.usage.cache_read_input_tokens


def test_ollama(caller):
    client = ollama.Client(host=caller.url)
    asked = {"model": NAME, "messages": QUESTION, "tools": TOOLS, "options": {"temperature": 0}}
    reply = client.chat(**asked)
    *_, calling, last = client.chat(**asked, stream=True)
    for message in (reply.message, calling.message):
        (call,) = message.tool_calls
        assert (call.function.name, call.function.arguments) == ("time", WANTED)
    assert (reply.message.content, last.done_reason) == ("Look:", "stop")
    said = [*QUESTION, reply.message, {"role": "tool", "tool_name": "time", "content": "noon"}]
    assert client.chat(**asked | {"messages": said}).done


def test_ollama_is_told_whether_a_model_takes_tools(caller, served):
    can = [ollama.Client(host=one.url).show(NAME).capabilities for one in (caller, served)]
    assert can == [["completion", "tools"], ["completion"]]


def test_tools_are_refused_where_nothing_would_come_of_them(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=QUESTION, tools=TOOLS)
    assert caught.value.param == "tools" and "tools: tiny: chat_template does not read them" in caught.value.message
    assert client.chat.completions.create(model=NAME, messages=QUESTION, tools=TOOLS, tool_choice="none").choices


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "maybe", "tools": TOOLS}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": TOOLS * 300}, "tools"),
    ],
)
def test_what_is_refused_names_the_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=QUESTION, **fields)
    assert caught.value.param == param


def test_responses_in_namespaces_beside_tools_of_the_service(spaced):
    """What codex offers: its own functions, those of others in namespaces, and a search that its service would do."""
    inner = {"type": "function", **FUNCTION, "strict": False}
    tools = [
        {"type": "function", "name": "other", "parameters": SCHEMA, "strict": False},
        {"type": "namespace", "name": "clock", "description": "clocks", "tools": [inner]},
        {"type": "web_search", "external_web_access": False},
    ]
    asked = {"model": NAME, "input": "hi", "tools": tools, "extra_body": {"client_metadata": {"turn": "{}"}}}
    with openai.OpenAI(base_url=f"{spaced.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(**asked)
        *_, last = client.responses.create(**asked, stream=True)
        for reply in (whole, last.response):
            call = reply.output[-1]
            assert (call.model_extra or vars(call))["namespace"] == "clock" and call.name == "time"
            assert [tool.type for tool in reply.tools] == ["function", "namespace"]
        sent = [*whole.output, {"type": "function_call_output", "call_id": whole.output[0].call_id, "output": "noon"}]
        said = [{"role": "user", "content": "hi"}, *sent]
        again = client.responses.create(**asked | {"input": said})
    prompt = "other;clock__time;user:hi"
    calling = f'assistant:<tool_call>clock__time{{"zone": "CET"}}{sent[0].call_id}</tool_call>tool:noon'
    for reply, text in ((whole, prompt), (again, prompt + calling)):
        counted = json.loads(spaced.ask("POST", "/tokenize", {"prompt": f"{text}\n"})[2])["count"]
        assert reply.usage.input_tokens == counted


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "file_search"}], "tools[0].type"),
        ([{"type": "namespace", "name": "a", "tools": [{"type": "web_search"}]}], "tools[0].tools[0].type"),
        ([{"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}] * 200}] * 2, "tools"),
        (
            [
                {"type": "function", "name": "a__b"},
                {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}]},
            ],
            "tools",
        ),
    ],
)
def test_what_responses_refuse_names_the_field(client, tools, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=NAME, input="hi", tools=tools)
    assert caught.value.param == param
