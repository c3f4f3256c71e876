"""SmolLM2 by transformers, from the same GGUF file."""

import json
from pathlib import Path

import numpy as np
import pytest
from logit_cases import KL_SHARE
from measures import agreement, divergence

import ellm

pytestmark = pytest.mark.oracle


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "greedy.json").read_text())


@pytest.fixture(scope="module")
def exact():
    """(tokenizer, float32 model)."""
    import torch
    from smollm2 import load

    return load(torch.float32)


@pytest.mark.parametrize("entry", GOLDEN, ids=[entry["prompt"] for entry in GOLDEN])
def test_golden_answers_are_those_of_transformers(exact, entry):
    from smollm2 import answer

    fresh = answer(*exact, entry["prompt"])
    assert fresh["prompt_ids"] == entry["prompt_ids"]
    assert fresh["ids"] == entry["ids"]
    assert fresh["gaps"] == pytest.approx(entry["gaps"], abs=1e-2)


def test_logits_of_a_long_chat_are_closer_to_float32_than_bf16_transformers(exact):
    import torch
    from smollm2 import load

    ids = [token for entry in GOLDEN for token in entry["prompt_ids"] + entry["ids"]]
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        truth = exact[1](prompt).logits[0].numpy()
        theirs = load(torch.bfloat16)[1](prompt).logits[0].float().numpy()
    with ellm.LLM("smollm2") as llm:
        ours = llm.logits(ids)
    ours_kl, theirs_kl = divergence(truth, ours), divergence(truth, theirs)
    best = np.argmax(truth, axis=-1)
    ours_top, theirs_top = agreement(best, ours), agreement(best, theirs)
    print(f"\nSmolLM2, {len(ids)} tokens: KL {ours_kl:.2e} / {theirs_kl:.2e} = {ours_kl / theirs_kl:.2f}, ", end="")
    print(f"top-1 {ours_top:.4f} / {theirs_top:.4f}")
    assert ours_kl <= KL_SHARE * theirs_kl
    assert ours_top >= theirs_top
