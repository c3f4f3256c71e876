"""What transformers says about a checkpoint folder: the truth in float32, the competitor in bf16."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

torch.set_num_threads(2)
logging.disable_progress_bar()


@dataclass
class Router:
    """What one layer's router does with T rows: `choice` float32 [T, experts] is what its top-k compares (up to a
    function that keeps the order), `ids` int64 [T, top_k] are the experts that it takes, ascending."""

    choice: np.ndarray
    ids: np.ndarray


@dataclass
class Peer:
    """One sequence: logits float32 [T, vocab] and the routers of its layers with experts."""

    logits: np.ndarray
    routers: list[Router] = field(default_factory=list)


def peer_logits(folder, tokens: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float32 [T, vocab] of one sequence."""
    return peer(folder, tokens, dtype).logits


def peer(folder, tokens: np.ndarray, dtype: torch.dtype) -> Peer:
    """Run one sequence with eager attention and experts; fails if a weight is missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in report.items() if names}
    assert not wrong, f"{folder}: {wrong}"
    routers: list[Router] = []
    for layer in model.model.layers:
        router = getattr(layer.mlp, "gate", None) or getattr(layer.mlp, "router", None)
        if router is not None:
            router.register_forward_hook(recorder(routers))
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
    return Peer(logits, routers)


def recorder(routers: list[Router]):
    """A hook on a router, which returns its logits, the chosen weights and the chosen ids."""

    def record(router, inputs, outputs) -> None:
        logits, _, ids = outputs
        bias = getattr(router, "e_score_correction_bias", None)
        choice = logits.float() if bias is None else logits.float().sigmoid() + bias
        routers.append(Router(choice.numpy(), ids.sort(dim=-1).values.numpy()))

    return record
