"""Keys and values in int8: the same bits however a step is cut, half the memory, one line where they cannot be so."""

import re

import numpy as np
import pytest
from small_models import config, graph
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams
from ellm.dsl import compile
from ellm.models import from_config

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
TOKENS = np.random.default_rng(0).integers(0, 331, 600).tolist()


@pytest.fixture(scope="module", params=["Qwen3ForCausalLM", "GptOssForCausalLM"])
def checkpoint(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("int8"), architecture=request.param, head_dim=32)


def test_bits_depend_on_the_sequence_alone(checkpoint):
    with LLM(checkpoint, kv="int8", threads=1) as llm:
        logits = llm.logits(TOKENS)
        (alone,) = llm.generate([TOKENS[:90]], GREEDY)
        _, beside = llm.generate([TOKENS, TOKENS[:90]], GREEDY)
    assert (alone.token_ids, alone.logprobs) == (beside.token_ids, beside.logprobs)
    for chunk in (7, 64):
        with LLM(checkpoint, kv="int8", chunk=chunk) as llm:
            np.testing.assert_array_equal(llm.logits(TOKENS), logits)
    with LLM(checkpoint) as llm:
        exact = llm.logits(TOKENS)
    assert 0 < np.abs(logits - exact).mean() < 0.05 * exact.std()


def test_a_position_takes_a_byte_a_number_and_two_scales():
    program = compile(graph("Qwen3ForCausalLM", head_dim=32), context=1024, kv="int8")
    assert {cache.kind.name for cache in program.caches} == {"keys and values in int8"}
    assert program.position_bytes == 2 * 2 * (2 * 32 + 2 * 4)
    assert program.range_bytes == 1024 * program.position_bytes


@pytest.mark.parametrize(
    ("architecture", "kv", "message"),
    [
        ("Qwen3ForCausalLM", "fp8", "kv 'fp8' is unknown: keys and values are kept in bf16 or int8"),
        (
            "Qwen3ForCausalLM",
            "int8",
            "heads have 24 dims: keys are turned by a Hadamard matrix, which takes a power of two",
        ),
        ("DeepseekV3ForCausalLM", "int8", "not of latents, which are kept in bf16 alone"),
    ],
)
def test_what_cannot_be(architecture, kv, message):
    model = from_config(config(architecture))
    with pytest.raises(InputError, match=re.escape(message)):
        compile(model.graph(), context=1024, kv=kv)
