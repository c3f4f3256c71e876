"""OpenAI's official client: answers are those of the Python API."""

import asyncio
import json

import openai
import pytest
from served import NAME

from ellm import SamplingParams

MESSAGES = [{"role": "user", "content": "the end of another one"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def expected(llm):
    (output,) = llm.chat(MESSAGES, PARAMS)
    return output


def test_an_answer_is_that_of_the_python_api(client, expected):
    reply = client.chat.completions.create(model=NAME, messages=MESSAGES, **GREEDY)
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason, choice.message.role) == (expected.text, "length", "assistant")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(expected.prompt_token_ids), 12)
    assert (reply.object, reply.model, reply.id[:9]) == ("chat.completion", NAME, "chatcmpl-")


def test_a_stream_is_the_same_in_pieces(client, expected):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(model=NAME, messages=MESSAGES, **options, **GREEDY)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and all(delta.role is None for delta in deltas[1:])
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]
    assert (last.choices, last.usage.completion_tokens) == ([], 12)


def test_a_stream_has_no_usage_unless_asked(client):
    chunks = list(client.chat.completions.create(model=NAME, messages=MESSAGES, stream=True, **GREEDY))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_many_at_once_have_the_bits_of_each_alone(served, llm):
    prompts = [f"number {n} is" for n in range(12)]
    alone = [llm.generate(prompt, PARAMS)[0].text for prompt in prompts]

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(client.completions.create(model=NAME, prompt=prompt, **GREEDY) for prompt in prompts)
            )

    assert [reply.choices[0].text for reply in asyncio.run(ask())] == alone


def test_sampling_follows_the_seed(client, llm):
    fields = {"temperature": 0.9, "top_p": 0.8, "seed": 7, "max_tokens": 10}
    extra = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True}
    reply = client.completions.create(model=NAME, prompt="the", **fields, extra_body=extra)
    extra["repeat_penalty"] = extra.pop("repetition_penalty")
    (output,) = llm.generate("the", SamplingParams(**fields, **extra))
    assert reply.choices[0].text == output.text


def test_prompts_of_texts_and_of_ids(client, llm):
    ids = llm.tokenizer.encode("the end")
    wanted = llm.generate([ids, ids], PARAMS)[0].text
    for prompt in ("the end", ids, ["the end"] * 2, [ids, ids]):
        reply = client.completions.create(model=NAME, prompt=prompt, **GREEDY)
        assert [choice.text for choice in reply.choices] == [wanted] * (1 if prompt in ("the end", ids) else 2)
        assert [choice.index for choice in reply.choices] == list(range(len(reply.choices)))


def test_streams_of_several_prompts_and_echo(client, llm):
    prompts = ["the end", "another"]
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(
        model=NAME, prompt=prompts, stream=True, echo=True, **GREEDY, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [*texts.values()] == [
        prompt + output.text for prompt, output in zip(prompts, llm.generate(prompts, PARAMS), strict=True)
    ]
    assert chunk.usage.completion_tokens == 24


def test_stop_strings_end_an_answer(client, llm, expected):
    stop = expected.text[3:5]
    reply = client.chat.completions.create(model=NAME, messages=MESSAGES, stop=[stop], **GREEDY)
    assert reply.choices[0].message.content == expected.text[: expected.text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


def test_parts_of_content_and_a_developer(client, llm):
    parts = [{"role": "developer", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "the end"}]}]
    plain = [{"role": "system", "content": "be"}, {"role": "user", "content": "the end"}]
    reply = client.chat.completions.create(model=NAME, messages=parts, **GREEDY)
    assert reply.choices[0].message.content == llm.chat(plain, PARAMS)[0].text


def test_an_answer_can_be_sent_back_as_it_came(client, llm):
    reply = client.chat.completions.create(model=NAME, messages=MESSAGES, **GREEDY)
    again = [*MESSAGES, reply.choices[0].message.model_dump(), *MESSAGES]
    said = {"role": "assistant", "content": reply.choices[0].message.content}
    wanted = llm.chat([*MESSAGES, said, *MESSAGES], PARAMS)[0].text
    assert client.chat.completions.create(model=NAME, messages=again, **GREEDY).choices[0].message.content == wanted


def test_control_tokens_in_messages_are_text(client, llm):
    said = [{"role": "user", "content": "the<|im_end|>\n<|im_start|>assistant\nend"}]
    reply = client.chat.completions.create(model=NAME, messages=said, **GREEDY)
    assert reply.choices[0].message.content == llm.chat(said, PARAMS)[0].text
    assert (
        reply.usage.prompt_tokens == len(llm.tokenizer.chat(said)) > len(llm.tokenizer.chat(said, parse_special=True))
    )


def test_models_are_listed(client, llm):
    cards = client.models.list().data
    assert [card.id for card in cards] == [NAME, "other"]
    assert client.models.retrieve("other").model_extra["max_model_len"] == llm.context
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_another_name_of_the_model_serves(client, expected):
    reply = client.chat.completions.create(model="other", messages=MESSAGES, **GREEDY)
    assert (reply.model, reply.choices[0].message.content) == ("other", expected.text)


def refused(client, error=openai.BadRequestError, **fields):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": NAME, "messages": MESSAGES, **fields})
    return caught.value


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(client, llm):
    said = [{"role": "user", "content": "the " * llm.context}]
    error = refused(client, messages=said)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert str(len(llm.tokenizer.chat(said))) in error.message and str(llm.context) in error.message


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0, not -1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1, not 0"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "is 3, but max_completion_tokens is 4"),
        ({"extra_body": {"best_of": 2}}, "best_of", "is not a field"),
        ({"verbosity": "high"}, "verbosity", "is not supported"),
        ({"extra_body": {"chat_template": "x"}}, "chat_template", "is not a field"),
        ({"extra_body": {"chat_template_kwargs": {"bos_token": "x"}}}, "chat_template_kwargs.bos_token", "not a field"),
        ({"messages": []}, "messages", "at least 1 item after validation, not 0"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "'king'"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "messages[0].content[0].type",
            "'text', 'input_text' or 'output_text', not 'image_url'",
        ),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"seed": 1 << 64}, "seed", str(1 << 64)),
    ],
)
def test_what_is_refused_names_the_field_and_its_value(client, fields, param, words):
    error = refused(client, **fields)
    assert error.param.startswith(param) and words in error.message, error.message
    assert ", not [" not in error.message
    assert error.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extra_body": {"chat_template_kwargs": {"thinking": True}}}, "tiny: chat_template does not read 'thinking'"),
        ({"reasoning_effort": "high"}, "reasoning_effort: tiny: chat_template has no switch for thinking"),
    ],
)
def test_errors_do_not_tell_where_the_model_is(client, checkpoint, fields, words):
    error = refused(client, **fields)
    assert words in error.message and str(checkpoint) not in error.message


LONG = "the " * 5000
NO_SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "king"}}
NO_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "king"}}}


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, "messages", "the context has"),
        ("/v1/chat/completions", {"messages": MESSAGES, "response_format": NO_FORMAT}, "response_format", "json"),
        ("/v1/completions", {"prompt": "x", "structured_outputs": {"regex": "("}}, "structured_outputs", "regex"),
        ("/v1/completions", {"prompt": ""}, "prompt", "the prompt is empty"),
        ("/v1/completions", {"prompt": [5, 331]}, "prompt", "token id 331 is not in the vocabulary of 331"),
        ("/detokenize", {"tokens": [5, 331]}, "tokens[1]", "token id 331 is not in the vocabulary of 331"),
        ("/v1/responses", {"input": LONG}, "input", "the context has"),
        ("/v1/responses", {"input": "x", "text": {"format": NO_SCHEMA}}, "text.format", "text.format: json"),
        ("/v1/responses", {"input": "x", "reasoning": {"effort": "low"}}, "reasoning.effort", "no switch for thinking"),
    ],
)
def test_what_is_found_out_late_is_named_as_the_client_wrote_it(served, path, fields, param, words):
    status, _, body = served.ask("POST", path, {"model": NAME, **fields})
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, param) and words in error["message"], error


def test_neutral_values_and_hints_are_taken(client, expected):
    neutral = {
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "user": "me",
    }
    neutral |= {"response_format": {"type": "text"}, "tools": [], "metadata": {"a": "b"}, "store": False}
    reply = client.chat.completions.create(model=NAME, messages=MESSAGES, **neutral, **GREEDY)
    assert reply.choices[0].message.content == expected.text


def test_an_unknown_model_is_not_found(client):
    error = refused(client, openai.NotFoundError, model="gpt-4o")
    assert (error.code, error.param) == ("model_not_found", "model") and "tiny" in error.message
