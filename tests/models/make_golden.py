"""Writes golden.json from transformers: the weights of each config, and the frequencies of each rope."""

import json
from pathlib import Path

from model_configs import CONFIGS, HEAD_DIMS, ROPES, rope_config

GOLDEN = Path(__file__).with_name("golden.json")


def weights_of(config: dict) -> dict[str, list[int]]:
    """Name -> stored shape of every weight that transformers would load."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = config["architectures"][0].removesuffix("ForCausalLM").lower()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))
    # Tied weights are parameters once.
    return {name: list(tensor.shape) for name, tensor in model.named_parameters()}


def frequencies_of(config: dict) -> dict:
    """inv_freq (as float32) and attention factor."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(LlamaConfig(**config))
    return {"inv_freq": embedding.inv_freq.tolist(), "factor": embedding.attention_scaling}


def golden() -> dict:
    ropes = {f"{name}-{dim}": frequencies_of(rope_config(name, dim, "new")) for name in ROPES for dim in HEAD_DIMS}
    return {"weights": {name: weights_of(config) for name, config in CONFIGS.items()}, "ropes": ropes}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
