"""Live comparison with transformers: float32 on the same weights is the truth, bf16 the competitor.

Models with experts are in test_routes.py.
"""

import numpy as np
import pytest
from logit_cases import CONTEXTS, KL_SHARE, LIVE, WITH_EXPERTS, expanded, prompt
from measures import agreement, divergence
from tiny import write_checkpoint

import ellm

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", [name for name in LIVE if name not in WITH_EXPERTS])
def test_logits_are_closer_to_float32_than_bf16_transformers(name, tmp_path):
    import torch
    from peer import peer_logits

    folder = write_checkpoint(tmp_path / name, **LIVE[name])
    numbers = write_checkpoint(tmp_path / "expanded", **expanded(LIVE[name]))
    ids = prompt(name)
    truth = peer_logits(numbers, ids, torch.float32)
    theirs = peer_logits(numbers, ids, torch.bfloat16)
    with ellm.LLM(str(folder), context=CONTEXTS.get(name)) as llm:
        ours = llm.logits(ids.tolist())
    assert ours.shape == truth.shape
    assert ours.dtype == np.float32
    ours_kl, theirs_kl = divergence(truth, ours), divergence(truth, theirs)
    best = truth.argmax(axis=-1)
    ours_top, theirs_top = agreement(best, ours), agreement(best, theirs)
    print(f"\n{name}: KL {ours_kl:.2e} / {theirs_kl:.2e} = {ours_kl / theirs_kl:.2f}, ", end="")
    print(f"top-1 {ours_top:.4f} / {theirs_top:.4f}")
    assert ours_kl <= KL_SHARE * theirs_kl
    assert ours_top >= theirs_top
