"""Log probabilities, several answers, biases, penalties and lengths through the Python API."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPT = np.random.default_rng(0).integers(3, 331, 100).tolist()


def log_softmax(logits):
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def everything(output):
    return dataclasses.replace(output, metrics=None, index=0)


def test_the_likeliest_tokens_are_listed(llm):
    params = dataclasses.replace(GREEDY, temperature=1.3, seed=3, logprobs=5)
    (output,) = llm.generate([PROMPT], params)
    exact = log_softmax(llm.logits(PROMPT + output.token_ids)[len(PROMPT) - 1 : -1])
    for token, logprob, top, row in zip(output.token_ids, output.logprobs, output.top_logprobs, exact, strict=True):
        assert [*top] == np.argsort(-row, kind="stable")[:5].tolist()
        np.testing.assert_allclose([*top.values()], row[[*top]], atol=1e-4)
        assert logprob == top.get(token, logprob) and abs(logprob - row[token]) < 1e-4
    (plain,) = llm.generate([PROMPT], dataclasses.replace(params, logprobs=None))
    assert plain.top_logprobs is None and plain.logprobs == output.logprobs
    (none,) = llm.generate([PROMPT], dataclasses.replace(params, logprobs=0))
    assert none.top_logprobs == [{}] * 12


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_a_prompt_is_scored_whatever_the_chunk(checkpoint, llm, chunk):
    exact = log_softmax(llm.logits(PROMPT))
    params = dataclasses.replace(GREEDY, prompt_logprobs=3, max_tokens=2)
    with LLM(checkpoint, chunk=chunk) as other:
        first, beside, short = other.generate([PROMPT, PROMPT[::-1], PROMPT[:1]], params)
    assert everything(first) == everything(llm.generate([PROMPT], params)[0])
    assert first.prompt_logprobs[0] is None and first.prompt_top_logprobs[0] is None
    np.testing.assert_allclose(first.prompt_logprobs[1:], exact[range(99), PROMPT[1:]], atol=1e-4)
    for top, row in zip(first.prompt_top_logprobs[1:], exact[:-1], strict=True):
        assert [*top] == np.argsort(-row, kind="stable")[:3].tolist()
    assert len(beside.prompt_logprobs) == 100 and short.prompt_logprobs == [None]
    assert first.token_ids == llm.generate([PROMPT], dataclasses.replace(params, prompt_logprobs=None))[0].token_ids


def test_a_scored_prompt_needs_no_more_rows_than_there_is_room_for(llm, monkeypatch):
    params = dataclasses.replace(GREEDY, prompt_logprobs=2)
    prompts = [PROMPT, PROMPT[:50], PROMPT[3:]]
    expected = [everything(one) for one in llm.generate(prompts, params)]
    monkeypatch.setattr(llm.engine, "batcher", dataclasses.replace(llm.engine.batcher, scored=7))
    assert [everything(one) for one in llm.generate(prompts, params)] == expected


def test_a_scored_prompt_is_computed_though_it_is_cached(llm):
    params = dataclasses.replace(GREEDY, prompt_logprobs=0)
    long = PROMPT * 6  # more than a block
    plain, first, second = (llm.generate(long, one)[0] for one in (GREEDY, params, params))
    assert [one.metrics.cached_tokens for one in (first, second)] == [0, 0]
    assert llm.generate(long, GREEDY)[0].metrics.cached_tokens > 0
    assert first.token_ids == second.token_ids == plain.token_ids
    assert first.prompt_logprobs == second.prompt_logprobs and None not in first.prompt_logprobs[1:]


def test_n_answers_have_seeds_that_follow_each_other(llm):
    hot = dataclasses.replace(GREEDY, temperature=2.0, seed=(1 << 64) - 2)
    answers = llm.generate(["the end", "x"], dataclasses.replace(hot, n=3))
    assert [one.index for one in answers] == [0, 1, 2] * 2
    for index, seed in enumerate([(1 << 64) - 2, (1 << 64) - 1, 0]):
        for at, prompt in enumerate(["the end", "x"]):
            (alone,) = llm.generate(prompt, dataclasses.replace(hot, seed=seed))
            assert everything(answers[3 * at + index]) == everything(alone)
    assert len({tuple(one.token_ids) for one in llm.generate("x", dataclasses.replace(hot, seed=None, n=16))}) > 8
    with pytest.raises(InputError, match="a stream has one answer, n is 3"):
        llm.stream("x", dataclasses.replace(hot, n=3))


def test_biases_decide(llm):
    assert llm.generate("x", dataclasses.replace(GREEDY, logit_bias={77: 100}))[0].token_ids == [77] * 12
    (plain,) = llm.generate("x", GREEDY)
    banned = dict.fromkeys(plain.token_ids, -100.0)
    (other,) = llm.generate("x", dataclasses.replace(GREEDY, logit_bias=banned))
    assert not set(other.token_ids) & set(banned)
    with pytest.raises(InputError, match=r"logit_bias: token id 331 is not in the vocabulary of 331"):
        llm.generate("x", SamplingParams(logit_bias={331: 1}))


def test_penalties_are_for_tokens_of_the_answer(llm):
    """A bias makes one token win until its count has eaten it up."""
    biased = dataclasses.replace(GREEDY, max_tokens=30, logit_bias={5: 100, 6: 85})
    answer = lambda **how: llm.generate([[5, 5, 6, 7]], dataclasses.replace(biased, **how))[0].token_ids  # noqa: E731
    assert answer() == answer(presence_penalty=2.0) == [5] * 30
    penalised = answer(frequency_penalty=2.0)
    assert penalised[:3] == [5] * 3 and penalised.count(6) > 2


def test_no_end_comes_before_min_tokens(llm):
    """Neither an end of sequence nor a stop id, whatever else asks for it, nor a stop string."""
    wanted = dict.fromkeys([2, 40], 100)
    params = SamplingParams(temperature=0, max_tokens=20, logit_bias=wanted, stop_token_ids=[40])
    assert llm.generate("x", params)[0].token_ids[1:] == []
    (output,) = llm.generate("x", dataclasses.replace(params, min_tokens=5))
    assert len(output.token_ids) == 6 and output.token_ids[5] in (2, 40)
    assert not {2, 0, 40} & set(output.token_ids[:5])
    (plain,) = llm.generate("the end", GREEDY)
    letter = plain.text[0]
    assert llm.generate("the end", dataclasses.replace(GREEDY, stop=letter))[0].text == ""
    (later,) = llm.generate("the end", dataclasses.replace(GREEDY, stop=letter, min_tokens=4))
    assert later.text.startswith(letter) and later.token_ids[:4] == plain.token_ids[:4]


def test_what_ended_the_answer_is_said_and_may_be_in_the_text(llm):
    (plain,) = llm.generate("the end", GREEDY)
    part = plain.text[3:5]
    params = dataclasses.replace(GREEDY, stop=["\0", part])
    (without,) = llm.generate("the end", params)
    (included,) = llm.generate("the end", dataclasses.replace(params, include_stop_str_in_output=True))
    assert (without.stop_reason, without.finish_reason) == (part, "stop") and not without.text.endswith(part)
    assert included.text == without.text + part
    token = plain.token_ids[4]
    params = dataclasses.replace(GREEDY, stop_token_ids=[token])
    (by_id,) = llm.generate("the end", params)
    (included,) = llm.generate("the end", dataclasses.replace(params, include_stop_str_in_output=True))
    assert by_id.stop_reason == included.stop_reason == token and by_id.token_ids == included.token_ids
    assert included.text == llm.tokenizer.decode(included.token_ids)
    assert plain.stop_reason is None and plain.finish_reason == "length"


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 0.9]),
    seed=st.integers(0, 99),
    max_tokens=st.integers(8, 30),
    min_tokens=st.integers(0, 8),
    presence_penalty=st.sampled_from([0.0, 1.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -0.5]),
    repeat_penalty=st.sampled_from([1.0, 1.2]),
    logit_bias=st.dictionaries(st.integers(0, 330), st.integers(-8, 8), max_size=5),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
    stop=st.sampled_from([None, "e"]),
    include_stop_str_in_output=st.booleans(),
    n=st.integers(1, 3),
)
REQUESTS = st.lists(st.tuples(st.lists(st.integers(3, 330), min_size=1, max_size=80), PARAMS), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(requests=REQUESTS)
def test_an_answer_depends_on_nothing_beside_it(llm, requests):
    prompts, params = zip(*requests, strict=True)
    together = llm.generate([*prompts], [*params])
    alone = [one for prompt, how in requests for one in llm.generate([prompt], how)]
    assert [everything(one) for one in together] == [everything(one) for one in alone]


@pytest.fixture(scope="module")
def vocab_of_five(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("five") / "model", vocab=5)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with LLM(folder) as llm:
        yield llm


def test_more_tokens_than_the_vocabulary_has_are_not_listed(vocab_of_five):
    with pytest.raises(InputError, match="logprobs: 6 of a vocabulary of 5 tokens"):
        vocab_of_five.generate([[1]], SamplingParams(prompt_logprobs=6))
    (output,) = vocab_of_five.generate([[1]], dataclasses.replace(GREEDY, logprobs=5))
    assert all(len(top) == 5 for top in output.top_logprobs)
