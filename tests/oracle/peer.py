"""Logits of transformers on a checkpoint folder: the truth in float32, the competitor in bf16."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(2)


def peer_logits(folder, tokens: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float32 [T, vocab] of one sequence, with eager attention; fails if a weight is missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in report.items() if names}
    assert not wrong, f"{folder}: {wrong}"
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
