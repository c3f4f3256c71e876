"""Libraries that people put in front of a server, unchanged, against SmolLM2 behind `ellm serve`."""

import os

import pytest
from served import NAME, serving

from ellm import LLM, SamplingParams

pytestmark = pytest.mark.oracle

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
SCORED = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " London"),
    ("One two three", " four five"),
]


@pytest.fixture(scope="module")
def llm():
    with LLM("smollm2") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(llm):
    with serving(llm) as running:
        yield running


def test_langchain_answers_streams_and_keeps_to_a_schema(served):
    chat_models = pytest.importorskip("langchain_openai")
    options = {"model": NAME, "api_key": "none", "temperature": 0, "max_tokens": 32}
    chat = chat_models.ChatOpenAI(base_url=f"{served.url}/v1", **options)
    assert chat.invoke(QUESTION).content == ANSWER
    parts = [part.content for part in chat.stream(QUESTION)]
    assert "".join(parts) == ANSWER and len(parts) > 3
    schema = {
        "title": "place",
        "type": "object",
        "properties": {"capital": {"type": "string"}},
        "required": ["capital"],
    }
    answer = chat.with_structured_output(schema, method="json_schema").invoke("The capital of France as JSON")
    assert answer == {"capital": "Paris"}


def test_langchain_embeds(served, llm):
    models = pytest.importorskip("langchain_openai")
    options = {"model": NAME, "api_key": "none", "check_embedding_ctx_length": False}  # else it sends OpenAI's tokens
    embeddings = models.OpenAIEmbeddings(base_url=f"{served.url}/v1", **options)
    found = [*embeddings.embed_documents([QUESTION, ANSWER]), embeddings.embed_query(ANSWER)]
    wanted = [one.embedding.tolist() for one in llm.embed([QUESTION, ANSWER, ANSWER])]
    assert found == wanted


@pytest.mark.parametrize("provider, path", [("openai", "/v1"), ("anthropic", ""), ("ollama_chat", "")])
def test_litellm_speaks_each_protocol(served, monkeypatch, provider, path):
    monkeypatch.setitem(os.environ, "LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    litellm = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": QUESTION}]
    options = {"api_base": served.url + path, "api_key": "none", "temperature": 0, "max_tokens": 16}
    reply = litellm.completion(model=f"{provider}/{NAME}", messages=messages, **options)
    assert reply.choices[0].message.content == ANSWER


def test_scores_of_lm_eval_are_those_of_the_python_api(served, llm, tmp_path):
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    import smollm2
    from lm_eval.api.instance import Instance
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(smollm2.GGUF.parent, gguf_file=smollm2.GGUF.name).save_pretrained(tmp_path)
    api = completions.LocalCompletionsAPI(
        model=NAME, base_url=f"{served.url}/v1/completions", tokenizer=str(tmp_path), tokenizer_backend="huggingface"
    )
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(SCORED)]
    for (context, more), (score, _) in zip(SCORED, api.loglikelihood(requests), strict=True):
        first, tokens = len(llm.tokenizer.encode(context)), llm.tokenizer.encode(context + more)
        [output] = llm.generate([tokens], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
        assert score == sum(output.prompt_logprobs[first:])
