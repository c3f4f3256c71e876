"""Live comparison of hidden states with transformers: float32 on the same weights is the truth, bf16 the competitor."""

import json

import numpy as np
import pytest
from logit_cases import LIVE, WITH_EXPERTS, expanded, prompt
from tiny import write_checkpoint

from ellm import LLM, PoolingParams

pytestmark = pytest.mark.oracle

NAMES = ["llama", "llama-biases", "mistral-window", "qwen2", "qwen3", "smollm3", "llama-f16"]
ENDS = [1, 40, 150, 512]  # of prompts


def peer_states(folder, tokens, dtype):
    """What is left of the last layer after the final norm: float32 [T, width]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.inference_mode():
        states = model(torch.from_numpy(tokens)[None], output_hidden_states=True).hidden_states
    return states[-1][0].float().numpy()


def pooled(states, pooling):
    """The embeddings of the prompts that end at ENDS."""
    return np.array([states[end - 1] if pooling == "last" else states[:end].mean(0) for end in ENDS])


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_closer_to_float32_than_bf16_transformers(name, tmp_path):
    import torch

    assert name in LIVE and name not in WITH_EXPERTS
    folder = write_checkpoint(tmp_path / name, **LIVE[name])
    numbers = write_checkpoint(tmp_path / "expanded", **expanded(LIVE[name]))
    ids = prompt(name)
    truth, theirs = (peer_states(numbers, ids, dtype) for dtype in (torch.float32, torch.bfloat16))
    for pooling in ("last", "mean"):
        with LLM(folder, pooling=pooling) as llm:
            outputs = llm.embed([ids[:end] for end in ENDS], PoolingParams(normalize=False))
        right = pooled(truth, pooling)
        errors = [
            np.linalg.norm(found - right)
            for found in (np.array([one.embedding for one in outputs]), pooled(theirs, pooling))
        ]
        print(f"\n{name}, {pooling}: error {errors[0]:.2e} / {errors[1]:.2e}, of {np.linalg.norm(right):.2e}", end="")
        assert errors[0] <= errors[1]


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2", "qwen3"])
def test_what_transformers_saves_without_a_head_embeds_the_same(name, tmp_path):
    from transformers import AutoModel

    folder = write_checkpoint(tmp_path / name, **LIVE[name])
    bare = tmp_path / "bare"
    AutoModel.from_pretrained(folder).save_pretrained(bare)
    assert json.loads((bare / "config.json").read_text())["architectures"][0].endswith("Model")
    prompts = [prompt(name)[:end] for end in ENDS]
    with LLM(folder) as llm:
        wanted = llm.embed(prompts)
    with LLM(bare) as llm:
        for found, one in zip(llm.embed(prompts), wanted, strict=True):
            np.testing.assert_array_equal(found.embedding, one.embedding)
