"""Models by the `architectures` of their config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ellm.dsl import Graph, Precision, trace
from ellm.models.config import DecoderConfig
from ellm.models.deepseek_v2 import deepseek_v2_block, read_deepseek_v2
from ellm.models.deepseek_v3 import deepseek_v3_block, read_deepseek_v3
from ellm.models.glm4_moe import glm4_moe_block, read_glm4_moe
from ellm.models.gpt_oss import gpt_oss_block, read_gpt_oss
from ellm.models.layers import Block, decoder
from ellm.models.llama import llama_block, read_llama, read_mistral
from ellm.models.mixtral import mixtral_block, read_mixtral
from ellm.models.mla import DeepseekConfig
from ellm.models.precision import precision_of
from ellm.models.qwen2 import qwen2_block, read_qwen2
from ellm.models.qwen3 import qwen3_block, read_qwen3
from ellm.models.qwen3_moe import qwen3_moe_block, read_qwen3_moe
from ellm.models.smollm3 import read_smollm3, smollm3_block
from ellm.system.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """How a family reads its config and computes a layer."""

    family: str
    read: Callable[[Mapping[str, Any]], DecoderConfig]
    block: Block


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture("llama", read_llama, llama_block),
    "MistralForCausalLM": Architecture("mistral", read_mistral, llama_block),
    "Qwen2ForCausalLM": Architecture("qwen2", read_qwen2, qwen2_block),
    "Qwen3ForCausalLM": Architecture("qwen3", read_qwen3, qwen3_block),
    "Qwen3MoeForCausalLM": Architecture("qwen3_moe", read_qwen3_moe, qwen3_moe_block),
    "MixtralForCausalLM": Architecture("mixtral", read_mixtral, mixtral_block),
    "DeepseekV2ForCausalLM": Architecture("deepseek_v2", read_deepseek_v2, deepseek_v2_block),
    "DeepseekV3ForCausalLM": Architecture("deepseek_v3", read_deepseek_v3, deepseek_v3_block),
    "Glm4MoeForCausalLM": Architecture("glm4_moe", read_glm4_moe, glm4_moe_block),
    "GptOssForCausalLM": Architecture("gpt_oss", read_gpt_oss, gpt_oss_block),
    "SmolLM3ForCausalLM": Architecture("smollm3", read_smollm3, smollm3_block),
}


@dataclass(frozen=True)
class Model:
    """A model that a config describes."""

    family: str
    config: DecoderConfig
    block: Block
    precision: Precision

    @property
    def context(self) -> int:
        """Most positions the model was made for."""
        return self.config.max_position_embeddings

    def graph(self, *, expanded: bool = False) -> Graph:
        """Trace the model; `expanded` is for prefill, with cached latents expanded to keys and values.

        Raises ShapeError, or InputError if there are no latents to expand.
        """
        config = self.config
        if expanded:
            if not isinstance(config, DeepseekConfig):
                raise InputError(f"expanded prefill: {self.family} has no latent attention, so nothing to expand")
            config = replace(config, expanded=True)
        return trace(partial(decoder, c=config, block=self.block), self.context, self.precision)


def from_config(config: Mapping[str, Any], precision: Precision | None = None, source: str = "config.json") -> Model:
    """Return the model that a config.json describes. Raises InputError naming `source`, the field and its value.

    `precision` tells what the checkpoint stores a tensor in, by its name; without it, the config does. `source` is the
    file that the config comes from.
    """
    try:
        return _read(config, precision)
    except InputError as error:
        raise InputError(f"{source}{str(error).removeprefix('config.json')}") from error


def _read(config: Mapping[str, Any], precision: Precision | None) -> Model:
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise InputError(f"config.json: architectures: {names!r} names no architecture")
    if not isinstance(names[0], str) or names[0] not in ARCHITECTURES:
        raise InputError(f"config.json: architectures: {names[0]!r} is unknown; known are {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[names[0]]
    by_config = precision_of(config)
    return Model(architecture.family, architecture.read(config), architecture.block, precision or by_config)


__all__ = ["ARCHITECTURES", "Architecture", "Model", "from_config"]
