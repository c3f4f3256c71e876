"""What transformers says about a checkpoint folder: the truth in float32, the competitor in bf16."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from families import family, says
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


def peer(folder, tokens: np.ndarray, dtype: torch.dtype, routes: list[np.ndarray] | None = None) -> Peer:
    """Run one sequence with eager attention and experts; fails if a weight is missing or left over.

    With `routes`, int [T, top_k] of each router, rows go to these experts instead of those that the routers choose.
    """
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in report.items() if names}
    assert not wrong, f"{folder}: {wrong}"
    found: list[Router] = []
    gates = [getattr(layer.mlp, "gate", None) or getattr(layer.mlp, "router", None) for layer in model.model.layers]
    routers = [gate for gate in gates if gate is not None]
    for router, taken in zip(routers, routes or [None] * len(routers), strict=True):
        router.register_forward_hook(recorder(found, model.config, taken))
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
    return Peer(logits, found)


def recorder(routers: list[Router], config, routes: np.ndarray | None):
    """A hook on a router, which returns its logits, the weights of those chosen, and their ids."""

    def record(router, inputs, outputs):
        logits, _, ids = outputs
        bias = getattr(router, "e_score_correction_bias", None)
        choice = logits.float() if bias is None else scores(family(config.model_type).router, logits.float()) + bias
        routers.append(Router(choice.numpy(), ids.sort(dim=-1).values.numpy()))
        if routes is None:
            return outputs
        taken = torch.from_numpy(routes.astype(np.int64))
        return logits, weights(config, logits.float(), taken), taken

    return record


def weights(config, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float32 [T, top_k] of the experts `ids` [T, top_k], by the rule of the family that the config is of."""
    router = family(config.model_type).router
    if router.score == "chosen":
        return logits.gather(1, ids).softmax(dim=-1)
    found = scores(router, logits).gather(1, ids)
    if says(config.to_dict(), router.normalize):
        found = found / found.sum(dim=-1, keepdim=True)
    return found * getattr(config, "routed_scaling_factor", 1.0)


def scores(router, logits: torch.Tensor) -> torch.Tensor:
    """What a router makes of its logits [T, experts]."""
    return {"softmax": partial(torch.softmax, dim=-1), "sigmoid": torch.sigmoid}[router.score](logits)
