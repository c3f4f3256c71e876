"""Live comparison with transformers: prediction heads draft what they do there."""

import numpy as np
import pytest
from drafting import draft_always
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.serving.drafter import Drafter

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("architecture", ["DeepseekV3ForCausalLM", "Glm4MoeForCausalLM"])
def test_drafts_are_those_of_transformers(tmp_path, monkeypatch, architecture):
    """Whatever was drafted and accepted before: the first ones of a sequence and the later, and drafts of drafts."""
    from mtp_peer import MtpPeer

    asked, draft = [], Drafter.draft

    def recorded(drafter, sequences, counts):
        found = draft(drafter, sequences, counts)
        known = [one.tokens[: one.length].tolist() for one in sequences]
        asked.extend((tokens, some) for tokens, some in zip(known, found, strict=True) if some)
        return found

    draft_always(monkeypatch)
    monkeypatch.setattr("ellm.serving.drafter.DEPTH", 3)
    monkeypatch.setattr(Drafter, "draft", recorded)
    monkeypatch.setattr(Drafter, "chance_of", lambda drafter, sequence: 1.0)
    every = {"num_experts_per_tok": 12, "topk_group": 3}  # so that no rounding sends a row to other experts
    folder = write_checkpoint(tmp_path, architecture, num_nextn_predict_layers=1, **every)
    prompts = [np.random.default_rng(seed).integers(3, 331, length).tolist() for seed, length in enumerate((4, 33, 90))]
    with LLM(folder, speculate="mtp", context=512) as llm:
        llm.generate(prompts, SamplingParams(temperature=0.8, seed=5, max_tokens=60, ignore_eos=True))
    peer, short = MtpPeer(folder), []
    for tokens, drafts in asked:
        for logits, token in zip(peer.drafts(tokens, len(drafts)), drafts, strict=True):
            short.append((logits.max() - logits[token]) / logits.std())
            if short[-1]:
                break  # what follows another draft differs
    same = np.mean(np.array(short) == 0)
    print(
        f"\n{architecture}: {same:.4f} of {len(short)} drafts are the same, the logits of others below the best by ",
        end="",
    )
    print(f"{max(short):.3f} standard deviations at most")
    assert len(short) > 200 and same >= 0.93 and max(short) < 0.2
