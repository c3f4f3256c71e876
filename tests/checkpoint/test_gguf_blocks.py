"""Models whose weights stay in GGUF's blocks: the bits of what the gguf package decodes, rounded to bf16."""

import formats
import numpy as np
import pytest
from packed_logits import packed_logits
from tiny_gguf import write_blocks

from ellm.checkpoint import open_checkpoint
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.system.errors import InputError

MIXED = {"attn_v": "Q6_K", "ffn_down": "Q5_K", "token_embd": "Q4_0", "output": "Q8_0"}  # all others Q4_K


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_model_in_one_format(tmp_path, kind):
    path = write_blocks(tmp_path, "LlamaForCausalLM", lambda stem: kind)
    kept, formats_used = packed_logits(path, None)
    assert np.isfinite(kept).all() and kept.std() > 0
    assert formats_used == {formats.NAMES[kind], "f32"}
    np.testing.assert_array_equal(kept, packed_logits(path, "bf16")[0])
    whole, _ = packed_logits(path, None, "int16")
    assert np.corrcoef(whole.reshape(-1), kept.reshape(-1))[0, 1] > 0.9  # random blocks make much of a rounding


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_formats_are_mixed_freely(tmp_path, architecture):
    """As Q4_K_M mixes them: then q, k and v are not one product."""
    path = write_blocks(tmp_path, architecture, lambda stem: MIXED.get(stem, "Q4_K"))
    kept, formats_used = packed_logits(path, None)
    assert formats_used == {"q4_k", "q5_k", "q6_k", "q4_0", "q8_0", "f32"}
    np.testing.assert_array_equal(kept, packed_logits(path, "bf16")[0])


@pytest.mark.parametrize("kinds", [{}, {"ffn_down_exps": "Q6_K"}, {"ffn_up_exps": "Q6_K"}])
def test_experts(tmp_path, kinds):
    """Where gate and up are in two formats, they are rounded to bf16 together."""
    sizes = dict(moe_intermediate_size=256)
    path = write_blocks(tmp_path, "Qwen3MoeForCausalLM", lambda stem: kinds.get(stem, "Q4_K"), **sizes)
    kept, formats_used = packed_logits(path, None)
    assert "q4_k" in formats_used
    np.testing.assert_array_equal(kept, packed_logits(path, "bf16")[0])


@pytest.mark.parametrize("expanded", [False, True])
def test_latent_attention(tmp_path, expanded):
    """As quantisers mix: rows of attn_k_b are too short for blocks of 256."""
    sizes = dict(q_lora_rank=256, kv_lora_rank=256, qk_nope_head_dim=32, v_head_dim=32, moe_intermediate_size=256)
    kinds = {"attn_k_b": "Q8_0", "attn_v_b": "Q6_K", "attn_kv_b": "Q5_K"}
    path = write_blocks(
        tmp_path, "DeepseekV3ForCausalLM", lambda stem: kinds.get(stem, "Q4_K"), expanded=expanded, **sizes
    )
    kept, formats_used = packed_logits(path, None)
    assert formats_used == {"q4_k", "f32", "bf16", *(["q5_k"] if expanded else ["q8_0", "q6_k"])}
    np.testing.assert_array_equal(kept, packed_logits(path, "bf16")[0])


def test_an_infinite_scale_is_one_line(tmp_path):
    path = write_blocks(tmp_path, "LlamaForCausalLM", lambda stem: "Q8_0")
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.tensors["model.layers.1.mlp.up_proj.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.offset + 34 : tensor.offset + 36] = np.array([np.inf], "<f2").tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"blocks.gguf: blk.1.ffn_up.weight .*: holds inf, a scale must be finite$"):
        packed_logits(path, None)
