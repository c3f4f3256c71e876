"""The same bits for every architecture, whatever the threads, the chunks and the company."""

import numpy as np
import pytest
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.scheduler import topology

MODELS = {
    "qwen3": {"architecture": "Qwen3ForCausalLM"},
    "qwen3-moe": {"architecture": "Qwen3MoeForCausalLM"},
    "deepseek-v3": {"architecture": "DeepseekV3ForCausalLM", "precision": "fp8"},
    "gpt-oss": {"architecture": "GptOssForCausalLM", "precision": "mxfp4"},
}
THREADS = [1, 2] if len(topology.choose_cores(None)) > 1 else [1]
CHUNKS = [1, 7, 64, 512]
RUNS = 100
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / request.param, **MODELS[request.param])


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 331, 130).tolist()


@pytest.fixture(scope="module")
def logits(checkpoint, tokens):
    with LLM(checkpoint, threads=1) as llm:
        return llm.logits(tokens)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_logits_depend_neither_on_the_threads_nor_on_the_chunk(checkpoint, tokens, logits, threads, chunk):
    with LLM(checkpoint, threads=threads, chunk=chunk) as llm:
        np.testing.assert_array_equal(llm.logits(tokens), logits)


def test_logits_do_not_change_from_run_to_run(checkpoint, tokens, logits):
    with LLM(checkpoint, threads=THREADS[-1]) as llm:
        for _ in range(RUNS):
            np.testing.assert_array_equal(llm.logits(tokens), logits)


def test_a_sequence_gives_the_same_alone_and_beside_others(checkpoint, tokens):
    prompts = [tokens, tokens[:9], tokens[40:90]]
    with LLM(checkpoint) as llm:
        for together, prompt in zip(llm.generate(prompts, GREEDY), prompts, strict=True):
            (alone,) = llm.generate([prompt], GREEDY)
            assert (together.token_ids, together.logprobs) == (alone.token_ids, alone.logprobs)
