"""Models with experts, latent attention, sinks and quantised weights: the same bits however a sequence is run."""

import numpy as np
import pytest
from logit_cases import SPARSE, expanded
from tiny import write_checkpoint

from ellm import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
QUANTISED = [name for name, arguments in SPARSE.items() if expanded(arguments)["expanded"]]


@pytest.fixture(scope="module", params=SPARSE)
def folder(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp(request.param) / request.param, **SPARSE[request.param])


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 267, 150).tolist()


@pytest.fixture(scope="module")
def logits(folder, tokens):
    with LLM(folder) as llm:
        return llm.logits(tokens)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_logits_do_not_depend_on_the_chunk(folder, logits, tokens, chunk):
    with LLM(folder, chunk=chunk) as llm:
        np.testing.assert_array_equal(llm.logits(tokens), logits)


def test_logits_do_not_depend_on_the_threads(folder, logits, tokens):
    with LLM(folder, threads=1) as llm:
        np.testing.assert_array_equal(llm.logits(tokens), logits)


def test_logits_do_not_depend_on_what_follows_or_came_before(folder, logits, tokens):
    with LLM(folder) as llm:
        for length in (1, 31, 150, 66):
            np.testing.assert_array_equal(llm.logits(tokens[:length]), logits[:length])


def test_a_sequence_beside_others_gives_what_it_gives_alone(folder, tokens):
    prompts = [tokens[:5], tokens[40:43], tokens[20:120], tokens[7:8], tokens[100:133]]
    with LLM(folder) as llm:
        alone = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
        together = llm.generate(prompts, GREEDY)
    for one, beside in zip(alone, together, strict=True):
        assert (one.token_ids, one.logprobs) == (beside.token_ids, beside.logprobs)


def test_what_is_cached_changes_no_bit(folder, tokens):
    with LLM(folder) as llm, LLM(folder, cache_bytes=0) as plain:
        prompts = [tokens[:90], [*tokens[:90], *plain.generate([tokens[:90]], GREEDY)[0].token_ids, 7]]
        prompts += [tokens[:120], [*tokens[:50], 3, 4]]
        found = []
        for prompt in prompts:
            (cached,), (fresh,) = llm.generate([prompt], GREEDY), plain.generate([prompt], GREEDY)
            assert (cached.token_ids, cached.logprobs) == (fresh.token_ids, fresh.logprobs)
            found.append(cached.metrics.cached_tokens)
        assert found == [0, 97, 64, 32]


@pytest.mark.parametrize("name", QUANTISED)
def test_codes_and_scales_give_the_bits_of_the_bf16_numbers_they_mean(name, tmp_path, tokens):
    found = []
    for number, arguments in enumerate((SPARSE[name], expanded(SPARSE[name]))):
        with LLM(write_checkpoint(tmp_path / str(number), **arguments), activations="bf16") as llm:
            found.append(llm.logits(tokens))
    np.testing.assert_array_equal(*found)


def test_a_long_prefill_in_one_step_gives_the_bits_of_many(tmp_path):
    folder = write_checkpoint(tmp_path, "Qwen3MoeForCausalLM", max_position_embeddings=4096, layers=1)
    ids = np.random.default_rng(1).integers(0, 267, 4096).tolist()
    found = []
    for chunk in (4096, 192):
        with LLM(folder, chunk=chunk) as llm:
            found.append(llm.generate([ids[:-1]], SamplingParams(temperature=0, max_tokens=1))[0])
    assert (found[0].token_ids, found[0].logprobs) == (found[1].token_ids, found[1].logprobs)


def test_the_layers_that_predict_more_tokens_are_not_read(tmp_path, tokens):
    found = []
    for extra in (0, 1):
        arguments = {"architecture": "DeepseekV3ForCausalLM", "num_nextn_predict_layers": extra}
        with LLM(write_checkpoint(tmp_path / str(extra), **arguments)) as llm:
            found.append(llm.logits(tokens))
    np.testing.assert_array_equal(*found)
