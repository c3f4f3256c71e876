"""Embeddings for the official clients of OpenAI and Ollama: those of the Python API."""

import base64
import json
import re

import numpy as np
import ollama
import openai
import pytest
from served import NAME, serving, wait_until

from ellm import PoolingParams

TEXTS = ["the end of another one", "an", "in the"]
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def expected(llm):
    return llm.embed(TEXTS)


def rows(outputs):
    return np.array([output.embedding for output in outputs])


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openais_client_gets_the_bits_of_the_python_api(client, expected, form):
    reply = client.embeddings.create(model=NAME, input=TEXTS, **form)
    found = [one.embedding for one in reply.data]
    if form.get("encoding_format") == "base64":
        found = [np.frombuffer(base64.b64decode(one), "<f4") for one in found]
    np.testing.assert_array_equal(np.array(found, np.float32), rows(expected))
    tokens = sum(len(one.prompt_token_ids) for one in expected)
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (tokens, tokens)
    assert [one.index for one in reply.data] == [0, 1, 2] and (reply.object, reply.model) == ("list", NAME)


def test_an_input_is_a_text_or_token_ids_or_a_list_of_either(client, expected):
    ids = [one.prompt_token_ids for one in expected]
    for given, wanted in (
        (TEXTS[0], expected[:1]),
        (ids[0], expected[:1]),
        (ids, expected),
        ([ids[0], *TEXTS[1:]], expected),
    ):
        reply = client.embeddings.create(model=NAME, input=given, user="somebody")
        np.testing.assert_array_equal(np.array([one.embedding for one in reply.data], np.float32), rows(wanted))


def test_dimensions_are_the_first_of_length_1(client, llm):
    (reply,) = client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=7).data
    (wanted,) = llm.embed(TEXTS[0], PoolingParams(dimensions=7))
    np.testing.assert_array_equal(np.array(reply.embedding, np.float32), wanted.embedding)
    assert abs(np.linalg.norm(reply.embedding) - 1) < 1e-6


@pytest.mark.parametrize(
    "said, param, message",
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["the", ""]}, "input[1]", "at least 1 character"),
        ({"input": [[]]}, "input[0]", "at least 1 item"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 items after validation, not 2049"),
        ({"input": [5] * 1025}, "input", "the prompt has 1025 tokens, the context has 1024"),
        ({"input": [[5], [5] * 1025]}, "input", "the prompt has 1025 tokens, the context has 1024, prompt 2 of 2"),
        ({"input": [331]}, "input", "token id 331 is not in the vocabulary of 331"),
        ({"input": "the", "dimensions": 89}, "dimensions", "dimensions is 89, the model's embeddings have 88"),
        ({"input": "the", "dimensions": 0}, "dimensions", "greater than or equal to 1, not 0"),
        ({"input": "the", "encoding_format": "int8"}, "encoding_format", "not 'int8'"),
        ({"input": "the", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "is not a field"),
        ({}, "input", "input is missing"),
    ],
)
def test_bad_requests_name_the_field_and_both_values(served, said, param, message):
    status, _, body = served.ask("POST", PATH, {"model": NAME, **said})
    error = json.loads(body)["error"]
    assert status == 400 and message in error["message"], error
    assert error["param"] == param, error


def test_another_model_is_not_there(served):
    assert served.ask("POST", PATH, {"model": "none", "input": "the"})[0] == 404


def test_2048_inputs_are_embedded_beside_each_other(client, llm):
    texts = [f"{number} the" for number in range(2048)]
    reply = client.embeddings.create(model=NAME, input=texts)
    found = np.array([one.embedding for one in reply.data], np.float32)
    np.testing.assert_array_equal(found[::500], rows(llm.embed(texts[::500])))


def test_a_client_that_leaves_ends_its_request(llm):
    with serving(llm) as running:
        payload = json.dumps({"model": NAME, "input": [[5] * 1000] * 100}).encode()
        connection = running.connect()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection.sendall(head.encode() + payload)
        wait_until(lambda: llm.engine.running)
        connection.close()
        wait_until(lambda: running.service.under_way == 0 and llm.engine.idle)
        assert running.ask("POST", PATH, {"model": NAME, "input": "the"})[0] == 200


def test_metrics_count_them(served, expected):
    def numbers():
        text = served.ask("GET", "/metrics")[2].decode()
        names = ("request_success_total", "request_prompt_tokens_sum", "prompt_tokens_total", "generation_tokens_total")
        found = [re.search(rf'^vllm:{name}{{.*model_name="tiny"}} (\S+)$', text, re.MULTILINE) for name in names]
        return np.array([float(one[1]) if one else 0.0 for one in found])

    before, ids = numbers(), [7, 8, 9, 10]
    assert served.ask("POST", PATH, {"model": NAME, "input": [ids, ids[::-1]]})[0] == 200
    assert (numbers() - before)[1:].tolist() == [8, 8, 0]


def test_ollamas_client_gets_them(served, llm, expected):
    client = ollama.Client(host=served.url)
    reply = client.embed(NAME, TEXTS)
    np.testing.assert_array_equal(np.array(reply.embeddings, np.float32), rows(expected))
    assert reply.prompt_eval_count == sum(len(one.prompt_token_ids) for one in expected) and reply.total_duration > 0
    np.testing.assert_array_equal(np.array(client.embed(NAME, TEXTS[0]).embeddings, np.float32), rows(expected[:1]))
    (short,) = client.embed(NAME, TEXTS[0], dimensions=7, truncate=True, options={"num_ctx": 64}).embeddings
    assert len(short) == 7
    old = client.embeddings(NAME, TEXTS[0])
    (raw,) = llm.embed(TEXTS[0], PoolingParams(normalize=False))
    np.testing.assert_array_equal(np.array(old.embedding, np.float32), raw.embedding)


def test_without_a_text_ollamas_requests_load_the_model(served):
    client = ollama.Client(host=served.url)
    assert client.embed(NAME, "").embeddings == [] and client.embed(NAME, []).embeddings == []
    assert client.embeddings(NAME, "").embedding == []


def test_what_is_too_long_is_refused_in_ollamas_form(served):
    status, _, body = served.ask("POST", "/api/embed", {"model": NAME, "input": "the " * 2000, "truncate": True})
    assert status == 400 and re.search(r"the prompt has \d+ tokens, the context has 1024", json.loads(body)["error"])
    status, _, body = served.ask("POST", "/api/embed", {"model": NAME, "input": "a", "options": {"num_ctx": 2000}})
    assert status == 400 and json.loads(body)["error"] == "options.num_ctx is 2000, the context has 1024"
