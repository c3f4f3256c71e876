"""Models by the `architectures` of their config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ellm.dsl import Graph, Precision, trace
from ellm.models.config import WITHOUT_EFFECT, DecoderConfig, SharedExpertsConfig
from ellm.models.deepseek_v2 import deepseek_v2_block, read_deepseek_v2
from ellm.models.deepseek_v3 import deepseek_v3_block, read_deepseek_v3
from ellm.models.drafter import drafter
from ellm.models.fields import Fields
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
    read: Callable[[Fields], DecoderConfig]
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
    """A model that a config describes; `unread` are fields of that which have no effect, though they might have."""

    family: str
    config: DecoderConfig
    block: Block
    precision: Precision
    source: str
    unread: tuple[str, ...]

    @property
    def longest(self) -> int:
        """Most positions that a sequence may have."""
        return max(rotary.most for rotary in self.config.rotary)

    @property
    def context(self) -> int:
        """How many positions sequences have unless it is said otherwise. Raises InputError if it must be said."""
        for rotary in self.config.rotary:
            if rotary.longer is not None and rotary.differs:
                raise InputError(
                    f"{self.source}: rope_type {rotary.kind!r} has other frequencies for each context from "
                    f"{rotary.trained} to {rotary.most}: choose one (--context); up to {rotary.trained} they are those "
                    f"of training"
                )
        return min((rotary.trained for rotary in self.config.rotary if rotary.longer), default=self.longest)

    def graph(self, context: int | None = None, *, expanded: bool = False) -> Graph:
        """Trace the model for sequences of at most `context` positions, its own by default.

        `expanded` is for prefill, with cached latents expanded to keys and values. Raises ShapeError, or InputError if
        there are no latents to expand.
        """
        config = replace(self.config, context=self.context if context is None else context)
        if expanded:
            if not isinstance(config, DeepseekConfig):
                raise InputError(f"expanded prefill: {self.family} has no latent attention, so nothing to expand")
            config = replace(config, expanded=True)
        return trace(partial(decoder, c=config, block=self.block), self.longest, self.precision)

    @property
    def drafts(self) -> bool:
        """Whether it has a layer that predicts the token after the next."""
        return isinstance(self.config, SharedExpertsConfig) and self.config.num_nextn_predict_layers > 0

    def drafter(self, context: int | None = None) -> Graph:
        """Trace the layer that predicts the token after the next; else as `graph`."""
        config = replace(self.config, context=self.context if context is None else context)
        return trace(partial(drafter, c=config, block=self.block), self.longest, self.precision)


def from_config(config: Mapping[str, Any], precision: Precision | None = None, source: str = "config.json") -> Model:
    """Return the model that a config.json describes. Raises InputError naming `source`, the field and its value.

    `precision` tells what the checkpoint stores a tensor in, by its name; without it, the config does. `source` is the
    file that the config comes from.
    """
    try:
        return _read(Fields(config), precision, source)
    except InputError as error:
        raise InputError(f"{source}{str(error).removeprefix('config.json')}") from error


def _read(fields: Fields, precision: Precision | None, source: str) -> Model:
    architecture = _architecture(fields)
    by_config = precision_of(fields)
    config = architecture.read(fields)
    unread = tuple(path for path in fields.unasked() if path not in WITHOUT_EFFECT)
    return Model(architecture.family, config, architecture.block, precision or by_config, source, unread)


def _architecture(fields: Fields) -> Architecture:
    """By `architectures`, which may be without its head ("Qwen3Model"), or else by `model_type`."""
    names, family = fields.get("architectures"), fields.get("model_type")
    if not names and family is not None:
        known = {architecture.family: architecture for architecture in ARCHITECTURES.values()}
        if not isinstance(family, str) or family not in known:
            raise fields.error("model_type", f"is unknown; known are {', '.join(known)}")
        return known[family]
    if not isinstance(names, list) or not names:
        raise fields.error("architectures", "names no architecture")
    name = f"{names[0][:-5]}ForCausalLM" if isinstance(names[0], str) and names[0].endswith("Model") else names[0]
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InputError(f"config.json: architectures: {names[0]!r} is unknown; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


__all__ = ["ARCHITECTURES", "Architecture", "Model", "from_config"]
