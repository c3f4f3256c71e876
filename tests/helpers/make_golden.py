"""Writes golden.json from transformers: the weights of each config, and the frequencies of each rope."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from families import family
from model_configs import CONFIGS, HEAD_DIMS, LONGER, ROPES, rope_config

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


def frequencies_of(config: dict, context: int | None = None) -> dict:
    """inv_freq (as float32) and attention factor, of a sequence of `context` positions or within those of training."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(LlamaConfig(**config))
    frequencies, factor = embedding.inv_freq, embedding.attention_scaling
    if context is not None:
        frequencies, factor = ROPE_INIT_FUNCTIONS[embedding.rope_type](embedding.config, seq_len=context)
    return {"inv_freq": frequencies.tolist(), "factor": factor}


def golden() -> dict:
    ropes = {f"{name}-{dim}": frequencies_of(rope_config(name, dim, "new")) for name in ROPES for dim in HEAD_DIMS}
    longer = {
        f"{name}-{dim}-{context}": frequencies_of(rope_config(name, dim, "new"), context)
        for name, contexts in LONGER.items()
        for dim in HEAD_DIMS
        for context in contexts
    }
    return {"weights": {name: weights_of(config) for name, config in CONFIGS.items()}, "ropes": ropes | longer}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
