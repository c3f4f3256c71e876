"""With drafts and without: the same tokens, logprobs, text and end, for every architecture."""

import dataclasses

import numpy as np
import pytest
from drafting import draft_always
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams
from ellm.scheduler import topology
from ellm.serving import lookup

MODELS = {
    "qwen3": {"architecture": "Qwen3ForCausalLM"},
    "qwen3-moe": {"architecture": "Qwen3MoeForCausalLM"},
    "deepseek-v3": {"architecture": "DeepseekV3ForCausalLM", "precision": "fp8"},
    "gpt-oss": {"architecture": "GptOssForCausalLM", "precision": "mxfp4"},
}
THREADS = [1, 2] if len(topology.choose_cores(None)) > 1 else [1]
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module", params=[(name, n) for name in MODELS for n in THREADS], ids=lambda p: f"{p[0]}-{p[1]}")
def pair(request, tmp_path_factory):
    """The same model with drafts, as many as there are whatever they cost, and without."""
    name, threads = request.param
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / name, **MODELS[name])
    with pytest.MonkeyPatch.context() as patch:
        draft_always(patch)
        patch.setattr(lookup, "RUNS", (4, 1))
        with LLM(folder, threads=threads) as with_drafts, LLM(folder, threads=threads, speculate="off") as without:
            yield with_drafts, without


def answers(outputs):
    return [(one.token_ids, one.logprobs, one.text, one.finish_reason, one.reasoning) for one in outputs]


PART = st.lists(st.integers(3, 330), min_size=1, max_size=12)
PROMPT = st.builds(lambda part, times, end: part * times + end, PART, st.integers(1, 6), PART | st.just([]))
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 0.8]),
    seed=st.integers(0, 1000),
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.5]),
    min_p=st.sampled_from([0.0, 0.1]),
    max_tokens=st.integers(1, 40),
    stop=st.sampled_from([None, "e", ["th", "\n"]]),
    ignore_eos=st.booleans(),
)


@settings(max_examples=12, deadline=None)
@given(requests=st.lists(st.tuples(PROMPT, PARAMS), min_size=1, max_size=4))
def test_answers_are_those_without_drafts(pair, requests):
    prompts, params = zip(*requests, strict=True)
    with_drafts, without = pair
    assert answers(with_drafts.generate(prompts, params)) == answers(without.generate(prompts, params))


def test_drafts_are_accepted_and_refused(pair):
    """In what the tests above compare."""
    with_drafts, without = pair
    prompt = [5, 6, 7, 8] * 6
    params = [dataclasses.replace(GREEDY, repeat_penalty=penalty) for penalty in (0.5, 1.0, 1.2)]
    ours, theirs = with_drafts.generate([prompt] * 3, params), without.generate([prompt] * 3, params)
    assert answers(ours) == answers(theirs)
    accepted = [one.metrics.accepted_tokens for one in ours]
    assert sum(accepted) > 10 and sum(accepted) < sum(one.metrics.drafted_tokens for one in ours)
    assert [one.metrics.steps + one.metrics.accepted_tokens for one in ours] == [40] * 3
    assert {one.metrics.drafted_tokens for one in theirs} == {0}


def test_a_conversation_is_the_same(pair):
    found = []
    for llm in pair:
        prompt = [9, 8, 7] * 8
        for _ in range(3):
            (output,) = llm.generate([prompt], dataclasses.replace(GREEDY, repeat_penalty=0.8))
            found.append((llm is pair[0], output.text, output.token_ids, output.metrics.cached_tokens))
            prompt = prompt + output.token_ids + [5, 6]
    ours, theirs = ([one[1:] for one in found if one[0] == which] for which in (True, False))
    assert ours == theirs and [one[2] for one in ours] == [0, 63, 105]


def test_a_stream_that_is_dropped_leaves_what_is_right(pair):
    found = []
    for llm in pair:
        prompt = [9, 8, 6] * 8
        with llm.stream(prompt, dataclasses.replace(GREEDY, repeat_penalty=0.8)) as stream:
            next(stream)
        (after,) = llm.generate([[*prompt, *([5, 6] * 3)]], GREEDY)
        found.append(after.token_ids)
    assert found[0] == found[1]


def test_what_cannot_draft_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match="speculate"):
        LLM(tmp_path / "absent", speculate="heads")


def test_the_model_runs_alone_the_same_whatever_the_costs(checkpoint):
    """As shipped: what is drafted follows what steps take, which is never the same."""
    random = np.random.default_rng(0)
    prompts = [(random.integers(3, 331, 9).tolist() * 4)[: 20 + at] for at in range(4)]
    params = [SamplingParams(temperature=t, seed=3, max_tokens=60, ignore_eos=True) for t in (0, 0.3, 0, 0.8)]
    with LLM(checkpoint) as llm, LLM(checkpoint, speculate="off") as plain:
        assert plain.speculation.drafts is None and llm.speculation.reason == "lookup"
        assert answers(llm.generate(prompts, params)) == answers(plain.generate(prompts, params))
