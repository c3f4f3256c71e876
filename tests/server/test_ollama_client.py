"""Ollama's official client."""

import json
import time

import ollama
import pytest
from served import NAME

from ellm import SamplingParams

MESSAGES = [{"role": "user", "content": "the end of another one"}]
OPTIONS = {"temperature": 0, "num_predict": 12}
PARAMS = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def client(served):
    return ollama.Client(host=served.url)


@pytest.fixture(scope="module")
def expected(llm):
    (output,) = llm.chat(MESSAGES, PARAMS)
    return output


@pytest.mark.parametrize("name", [NAME, "tiny:latest", "other"])
def test_an_answer_is_that_of_the_python_api(client, expected, name):
    reply = client.chat(name, MESSAGES, options=OPTIONS)
    assert (reply.message.content, reply.message.role, reply.model) == (expected.text, "assistant", name)
    assert (reply.done, reply.done_reason, reply.eval_count) == (True, "length", 12)
    assert reply.prompt_eval_count == len(expected.prompt_token_ids)
    assert reply.total_duration > 0 and reply.prompt_eval_duration > 0


def test_a_stream_is_the_same_in_lines(client, expected):
    *lines, last = client.chat(NAME, MESSAGES, options=OPTIONS, stream=True)
    assert "".join(line.message.content for line in lines) == expected.text
    assert not any(line.done for line in lines) and (last.done, last.eval_count) == (True, 12)


def test_a_prompt_is_a_message_unless_it_is_raw(client, llm, expected):
    said = MESSAGES[0]["content"]
    assert client.generate(NAME, said, options=OPTIONS).response == expected.text
    raw = client.generate(NAME, said, options=OPTIONS, raw=True)
    assert raw.response == llm.generate(said, PARAMS)[0].text
    system = client.generate(NAME, said, options=OPTIONS, system="be", stream=True)
    wanted = llm.chat([{"role": "system", "content": "be"}, *MESSAGES], PARAMS)[0].text
    assert "".join(line.response for line in system) == wanted


def test_durations_count_what_comes_before_the_model(client, llm, monkeypatch):
    def slowly(*arguments, **options):
        time.sleep(0.2)
        return chat(*arguments, **options)

    chat = llm.tokenizer.chat
    monkeypatch.setattr(llm.tokenizer, "chat", slowly)
    assert client.chat(NAME, MESSAGES, options=OPTIONS).total_duration > 200_000_000
    assert client.generate(NAME, "x", options=OPTIONS).total_duration > 200_000_000


def test_an_empty_prompt_loads_the_model(client):
    assert client.generate(NAME).done_reason == "load"
    assert client.chat(NAME).done_reason == "load"


def test_curl_streams_by_default(served):
    body = json.dumps({"model": NAME, "messages": MESSAGES, "options": OPTIONS}).encode()
    status, headers, reply = served.ask("POST", "/api/chat", body, ["Content-Type: application/x-www-form-urlencoded"])
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line)["done"] for line in reply.splitlines()][-2:] == [False, True]


def test_models_are_listed_and_shown(client, llm):
    assert [model.model for model in client.list().models] == [NAME, "other"]
    shown = client.show(NAME)
    family = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{family}.context_length"] == llm.context and "completion" in shown.capabilities


def test_a_model_may_be_asked_for_by_its_older_field(served):
    status, _, reply = served.ask("POST", "/api/show", {"name": NAME})
    assert status == 200 and json.loads(reply)["details"]
    status, _, reply = served.ask("POST", "/api/show", {"verbose": True})
    assert (status, json.loads(reply)) == (400, {"error": "model is missing"})


def test_the_version_is_one_that_clients_take(served):
    version = json.loads(served.ask("GET", "/api/version")[2])["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"options": {"num_ctx": 1 << 20}}, "num_ctx is 1048576, the context has"),
        ({"options": {"mirostat": 1}}, "options.mirostat is not supported"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n is not supported"),
        ({"think": True}, "no switch for thinking"),
        ({"think": "low"}, "think: tiny: chat_template has no switch for thinking"),
        ({"format": {"type": "king"}}, "format: json"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images is not supported"),
        ({"messages": [{"role": "user", "content": "the " * 5000}]}, "the context has"),
    ],
)
def test_what_is_refused_is_named(client, arguments, words):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(**{"model": NAME, "messages": MESSAGES, **arguments})
    assert caught.value.status_code == 400 and words in caught.value.error


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("llama3", MESSAGES)
    assert caught.value.status_code == 404
