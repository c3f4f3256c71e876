"""Text through the language model of a model that also sees, against transformers with the whole model."""

import numpy as np
import pytest
from measures import divergence

import ellm

pytestmark = pytest.mark.oracle

TEXT = {
    "vocab_size": 331,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.05,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]}}
VISION = {"hidden_size": 32, "intermediate_size": 32}
PATCHES = VISION | {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
BLOCKS = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 96}
WHOLES = {
    "qwen2_5_vl": (MROPE, BLOCKS),
    "qwen3_vl": ({"head_dim": 24, **MROPE}, BLOCKS | {"deepstack_visual_indexes": [0]}),
    "mistral3": ({"model_type": "mistral", "head_dim": 24}, PATCHES | {"model_type": "pixtral", "head_dim": 16}),
    "llava": ({"model_type": "llama", "head_dim": 24}, PATCHES | {"model_type": "clip_vision_model"}),
}


@pytest.mark.parametrize("name", WHOLES)
def test_logits_of_a_text_are_closer_to_float32_than_bf16_transformers(name, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    text, vision = WHOLES[name]
    config = AutoConfig.for_model(name, text_config=TEXT | text, vision_config=vision)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(3, 300, 200)

    def peer(dtype):
        model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype)
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids)[None]).logits[0].float().numpy()

    truth = peer(torch.float32)
    with ellm.LLM(str(tmp_path)) as llm:
        ours = llm.logits(ids.tolist())
    assert divergence(truth, ours) < divergence(truth, peer(torch.bfloat16))
