"""Writes golden.json from transformers: the weights of each config, and the frequencies of each rope."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from families import family
from model_configs import CONFIGS, HEAD_DIMS, ROPES, rope_config

GOLDEN = Path(__file__).parents[1] / "models" / "golden.json"


def weights_of(config: dict) -> dict[str, list[int]]:
    """Name -> stored shape of every weight in the checkpoint that transformers writes."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type = family(config["architectures"][0]).model_type
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


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
