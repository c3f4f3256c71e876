"""Live comparison with transformers: float32 on the same weights is the truth, bf16 the competitor."""

import numpy as np
import pytest
from logit_cases import KL_SHARE, LIVE, expanded, kl_share, prompt
from measures import agreement, divergences
from tiny import write_checkpoint

import ellm

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", LIVE)
def test_logits_are_closer_to_float32_than_bf16_transformers(name, tmp_path):
    import torch
    from oracle.peer import peer_logits

    folder = write_checkpoint(tmp_path / name, **LIVE[name])
    numbers = write_checkpoint(tmp_path / "expanded", **expanded(LIVE[name]))
    ids = prompt(name)
    truth = peer_logits(numbers, ids, torch.float32)
    theirs = peer_logits(numbers, ids, torch.bfloat16)
    with ellm.LLM(str(folder)) as llm:
        ours = llm.logits(ids.tolist())
    assert ours.shape == truth.shape
    assert ours.dtype == np.float32
    ours_all, theirs_all = divergences(truth, ours), divergences(truth, theirs)
    ours_kl, theirs_kl = ours_all.mean(), theirs_all.mean()
    median = np.median(ours_all) / np.median(theirs_all)
    best = truth.argmax(axis=-1)
    ours_top, theirs_top = agreement(best, ours), agreement(best, theirs)
    print(f"\n{name}: KL {ours_kl:.2e} / {theirs_kl:.2e} = {ours_kl / theirs_kl:.2f}, median {median:.2f}, ", end="")
    print(f"top-1 {ours_top:.4f} / {theirs_top:.4f}")
    assert ours_kl <= kl_share(name) * theirs_kl
    assert median <= KL_SHARE
    assert ours_top >= theirs_top
