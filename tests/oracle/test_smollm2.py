"""SmolLM2 by transformers, from the same GGUF file."""

import json

import numpy as np
import pytest
from golden.cases import KL_SHARE
from measures import agreement, divergence

import ellm

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def make_greedy():
    from golden import make_greedy

    return make_greedy


@pytest.fixture(scope="module")
def exact(make_greedy):
    """(tokenizer, float32 model)."""
    import torch

    return make_greedy.load(torch.float32)


@pytest.fixture(scope="module")
def entries(make_greedy):
    return json.loads(make_greedy.FILE.read_text())


def test_golden_answers_are_those_of_transformers(make_greedy, exact, entries):
    assert [entry["prompt"] for entry in entries] == make_greedy.PROMPTS
    for entry in entries:
        fresh = make_greedy.record(*exact, entry["prompt"])
        assert fresh["prompt_ids"] == entry["prompt_ids"]
        assert fresh["ids"] == entry["ids"]
        assert fresh["gaps"] == pytest.approx(entry["gaps"], abs=1e-2)


def test_logits_of_a_long_chat_are_closer_to_float32_than_bf16_transformers(make_greedy, exact, entries):
    import torch

    ids = [token for entry in entries for token in entry["prompt_ids"] + entry["ids"]]
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        truth = exact[1](prompt).logits[0].numpy()
        theirs = make_greedy.load(torch.bfloat16)[1](prompt).logits[0].float().numpy()
    with ellm.LLM("smollm2") as llm:
        ours = llm.logits(ids)
    ours_kl, theirs_kl = divergence(truth, ours), divergence(truth, theirs)
    best = np.argmax(truth, axis=-1)
    ours_top, theirs_top = agreement(best, ours), agreement(best, theirs)
    print(f"\nSmolLM2, {len(ids)} tokens: KL {ours_kl:.2e} / {theirs_kl:.2e} = {ours_kl / theirs_kl:.2f}, ", end="")
    print(f"top-1 {ours_top:.4f} / {theirs_top:.4f}")
    assert ours_kl <= KL_SHARE * theirs_kl
    assert ours_top >= theirs_top
