"""What OpenAI's client asks of sampling beyond one plain answer: scores, several answers, forms, penalties."""

import json
import re

import anthropic
import ollama
import openai
import pytest
from served import NAME, serving

from ellm import SamplingParams
from ellm.serving.completion import Completion

MESSAGES = [{"role": "user", "content": "the end of another one"}]
TEXT = "the end of another"
MORE = {"max_tokens": 8, "extra_body": {"ignore_eos": True}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 9}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_scores_of_an_answer_are_those_of_the_python_api(client, llm):
    (output,) = llm.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=3))
    asked = {"model": NAME, "messages": MESSAGES, "temperature": 0, "logprobs": True, "top_logprobs": 3, **MORE}
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    streamed = [one for choice in chunks if choice.logprobs for one in choice.logprobs.content]
    for found in (whole, streamed):
        assert [one.logprob for one in found] == output.logprobs
        assert [[top.logprob for top in one.top_logprobs] for one in found] == [
            [*top.values()] for top in output.top_logprobs
        ]
    assert all(one.top_logprobs[0].token == one.token for one in whole)
    assert all(bytes(one.bytes) == one.token.encode() for one in whole if not one.token.startswith("token_id:"))


@pytest.mark.parametrize("echo", [None, False, True])
def test_a_stream_of_scores_looks_at_each_token_once(client, monkeypatch, echo):
    """Not at the whole answer for each part of it. `echo` None: a conversation."""
    asked, whole = [], Completion.output
    monkeypatch.setattr(Completion, "output", lambda self: (asked.append(1), whole(self))[1])
    if echo is None:
        create, fields = client.chat.completions.create, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
    else:
        create, fields = client.completions.create, {"prompt": TEXT, "logprobs": 2, "echo": echo}
    counts = []
    for tokens in (4, 40):
        more = {"max_tokens": tokens, "extra_body": {"ignore_eos": True}}
        assert [*create(model=NAME, temperature=0, stream=True, **fields, **more)]
        counts.append(len(asked))
    assert counts[1] == 2 * counts[0]


def test_scores_without_the_likeliest(client):
    asked = {"model": NAME, "messages": MESSAGES, "temperature": 0, "logprobs": True, **MORE}
    found = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert len(found) == 8 and all(one.top_logprobs == [] for one in found)


def test_bytes_of_scores_are_those_of_the_tokens(client):
    """Of parts of characters too, so that together they are the text's."""
    text = {"extra_body": {"structured_outputs": {"choice": ["é🙂 x"]}}}
    asked = {"model": NAME, "messages": MESSAGES, "logprobs": True, "top_logprobs": 1, **text}
    scores = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert bytes(byte for one in scores[:-1] for byte in one.bytes).decode() == "é🙂 x"
    assert [one.token.startswith("token_id:") for one in scores[:-1]] == [True] * 6 + [False] * 2
    (choice,) = client.completions.create(model=NAME, prompt="ü", logprobs=1, echo=True, **text).choices
    assert choice.text == "üé🙂 x" and choice.logprobs.text_offset[:10] == [0, 1, 1, 2, 2, 3, 3, 3, 3, 4]


@pytest.mark.parametrize("stream", [False, True])
def test_echoed_scores_are_those_of_the_python_api(client, llm, stream):
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=2, prompt_logprobs=2)
    (output,) = llm.generate(TEXT, params)
    asked = {"model": NAME, "prompt": TEXT, "temperature": 0, "max_tokens": 1, "logprobs": 2, "echo": True}
    reply = client.completions.create(**asked, stream=stream)
    parts = [part.choices[0] for part in reply] if stream else reply.choices
    scores = [number for part in parts for number in part.logprobs.token_logprobs]
    tokens = [token for part in parts for token in part.logprobs.tokens]
    tops = [top for part in parts for top in part.logprobs.top_logprobs]
    offsets = [offset for part in parts for offset in part.logprobs.text_offset]
    assert scores == [*output.prompt_logprobs, *output.logprobs]
    assert "".join(part.text for part in parts) == TEXT + output.text
    assert [offset + len(token) for offset, token in zip(offsets, tokens, strict=True)][:-1] == offsets[1:]
    assert tops[0] is None and max(tops[1].values()) == max(output.prompt_top_logprobs[1].values())


def test_a_prompt_alone_is_scored(client, llm):
    reply = client.completions.create(model=NAME, prompt=[TEXT, "x"], max_tokens=0, logprobs=0, echo=True)
    (output,) = llm.generate(TEXT, SamplingParams(max_tokens=1, prompt_logprobs=0))
    assert [choice.text for choice in reply.choices] == [TEXT, "x"]
    assert reply.choices[0].logprobs.token_logprobs == output.prompt_logprobs
    assert reply.usage.completion_tokens == 0


def test_several_answers_are_those_of_their_seeds(client, llm):
    params = SamplingParams(temperature=1, seed=5, n=3, max_tokens=8, ignore_eos=True)
    texts = [output.text for output in llm.chat(MESSAGES, params)]
    asked = {"model": NAME, "messages": MESSAGES, "temperature": 1, "seed": 5, "n": 3, **MORE}
    reply = client.chat.completions.create(**asked)
    assert [choice.message.content for choice in reply.choices] == texts and len(set(texts)) == 3
    assert reply.usage.completion_tokens == 24 and reply.usage.prompt_tokens < 60
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    prompts = [output.text for prompt in (TEXT, "x") for output in llm.generate(prompt, params)]
    reply = client.completions.create(model=NAME, prompt=[TEXT, "x"], temperature=1, seed=5, n=3, **MORE)
    assert [(choice.index, choice.text) for choice in reply.choices] == [*enumerate(prompts)]


def test_several_answers_are_rendered_and_tokenised_once(client, llm, monkeypatch):
    tokenizer, asked = type(llm.tokenizer), []
    for name in ("chat", "encode"):
        method = getattr(tokenizer, name)
        monkeypatch.setattr(
            tokenizer, name, lambda *given, _of=method, **more: (asked.append(1), _of(*given, **more))[1]
        )
    counts = []
    for n in (1, 5):
        client.chat.completions.create(model=NAME, messages=MESSAGES, n=n, **MORE)
        client.completions.create(model=NAME, prompt=TEXT, n=n, **MORE)
        counts.append(len(asked))
    assert counts[1] == 2 * counts[0] > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"presence_penalty": 2.0},
        {"frequency_penalty": 1.5},
        {"logit_bias": {"40": 100}},
        {"min_tokens": 5},
        {"include_stop_str_in_output": True, "stop": ["e"]},
    ],
)
def test_fields_do_what_the_python_api_does(client, llm, fields):
    given = {name: value for name, value in fields.items() if name != "logit_bias"}
    if "logit_bias" in fields:
        given["logit_bias"] = {40: 100}
    (output,) = llm.generate(TEXT, SamplingParams(temperature=0, max_tokens=8, **given))
    reply = client.completions.create(model=NAME, prompt=TEXT, temperature=0, max_tokens=8, extra_body=fields)
    assert reply.choices[0].text == output.text


def test_an_answer_keeps_to_a_schema(client):
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    asked = {"model": NAME, "messages": MESSAGES, "max_tokens": 200}
    for form in (named, {"type": "json_object"}):
        reply = client.chat.completions.create(**asked, response_format=form, temperature=0)
        if reply.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(reply.choices[0].message.content), dict)
    reply = client.chat.completions.create(**asked, response_format=named)
    assert json.loads(reply.choices[0].message.content)["a"] <= 9
    flat = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    reply = client.responses.create(model=NAME, input="x", text=flat, max_output_tokens=200)
    assert "a" in json.loads(reply.output_text)


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [({"regex": "[ab]{3}"}, "[ab]{3}"), ({"choice": ["yes", "no"]}, "yes|no"), ({"grammar": 'root ::= "x" "y"'}, "xy")],
)
def test_an_answer_keeps_to_other_forms(client, wanted, pattern):
    extra = {"structured_outputs": wanted}
    for create, field in ((client.completions.create, "prompt"), (client.chat.completions.create, "messages")):
        given = {field: TEXT if field == "prompt" else MESSAGES}
        choice = create(model=NAME, max_tokens=50, extra_body=extra, **given).choices[0]
        assert re.fullmatch(pattern, choice.text if field == "prompt" else choice.message.content)


def test_other_clients_ask_for_schemas(served):
    reply = ollama.Client(host=served.url).chat(NAME, MESSAGES, format=SCHEMA, options={"num_predict": 200})
    assert "a" in json.loads(reply.message.content)
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        output = {"format": {"type": "json_schema", "schema": SCHEMA}}
        reply = client.messages.create(model=NAME, messages=MESSAGES, max_tokens=200, output_config=output)
    assert "a" in json.loads(reply.content[0].text)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 17}, "n", "16, not 17"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "20, not 21"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"presence_penalty": 3}, "presence_penalty", "2, not 3"),
        ({"logit_bias": {"3": 101}}, "logit_bias", "100, not 101"),
        ({"logit_bias": {"x": 1}}, "logit_bias", ""),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "1024"),
        ({"logit_bias": {"330000": 1}}, "logit_bias", "token id 330000 is not in the vocabulary of 331"),
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs", "none is given"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, None, "regex"),
        ({"extra_body": {"structured_outputs": {"grammar": "x" * 100_000}}}, None, "at most 65536"),
        (
            {"extra_body": {"structured_outputs": {"json": {"$ref": "#"}}}},
            None,
            "structured_outputs",
        ),  # found by a step
    ],
)
def test_what_is_refused_is_named(client, fields, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=MESSAGES, **fields)
    assert (caught.value.param or "").startswith(param or "") and words in caught.value.message, caught.value.message


def test_a_prefix_is_seen_by_those_of_the_same_key_alone(llm):
    said = [{"role": "user", "content": "some words that begin alike, again and again; " * 16}]
    with serving(llm, keys=["one", "two"]) as running:
        cached = []
        for key in ("one", "one", "two", "two", "one"):
            with openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
                reply = client.chat.completions.create(model=NAME, messages=said, max_tokens=1)
                cached.append(reply.usage.prompt_tokens_details.cached_tokens)
    assert [one > 0 for one in cached] == [False, True, False, True, True]


def test_the_page_and_what_it_asks_for(served, llm):
    status, headers, body = served.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8") and b"<html" in body
    found = json.loads(served.ask("GET", "/status")[2])
    assert found["context"] == llm.context and len(found["cores"]) == llm.runtime.pool.threads
