"""The values of general.architecture that ellm runs, and what Hugging Face calls their models, tensors and sizes.

A family is data alone: whatever is a matter of names. What is stored in another order or form is in gguf_tensors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ellm.checkpoint.gguf_file import GGUFFile
from ellm.system.errors import InputError

QKV = frozenset(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
ATTENTION = QKV | {"self_attn.o_proj"}
MLP = frozenset(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"))

MODEL_MODULES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True)
class Family:
    """One value of general.architecture, of models without experts or of those with them.

    Attributes:
        architecture: in `architectures` of config.json.
        model_type: in config.json.
        modules: of a layer, by the stored tensor's name. "{expert}" in one stands for each matrix of a stored stack.
        interleaved: rows of q and k are stored in pairs (llama.cpp, convert_hf_to_gguf.py, permute).
        biased: modules of a layer that always have a bias.
        switches: fields of config.json that give more modules a bias.
        sizes: fields of config.json that are a size, by the key of the metadata behind the architecture.
        constants: fields of config.json that are the same for the whole family.
        neutral: values of keys that say what is so in the family anyway (see gguf_keys.py).
        otherwise: what computes a file of the family that has biases which this one cannot have.
    """

    architecture: str
    model_type: str
    modules: Mapping[str, str] = field(default_factory=lambda: _LAYER)
    interleaved: bool = False
    biased: frozenset[str] = frozenset()
    switches: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    otherwise: Family | None = None

    @property
    def may_be_biased(self) -> frozenset[str]:
        """Modules of a layer that can have a bias."""
        return self.biased.union(*self.switches.values())


_BIASES = {"attention_bias": ATTENTION, "mlp_bias": MLP}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", "llama", interleaved=True, switches=_BIASES),
    "qwen2": Family(
        "Qwen2ForCausalLM", "qwen2", biased=QKV, otherwise=Family("LlamaForCausalLM", "qwen2", switches=_BIASES)
    ),
    "qwen3": Family("Qwen3ForCausalLM", "qwen3", _LAYER | _HEAD_NORMS, switches={"attention_bias": ATTENTION}),
}
_NOT_MODELS = {  # values of general.architecture and general.type
    "clip": "the vision or audio part of a model: open the language model beside it",
    "mmproj": "the vision or audio part of a model: open the language model beside it",
    "adapter": "an adapter (LoRA), which needs merging into its model",
    "imatrix": "an importance matrix for quantising, no model",
}


def family_of(file: GGUFFile) -> Family:
    """The family of a file. Raises InputError if ellm does not have it."""
    architecture = file.field("general.architecture", str)
    for key, value in (("general.architecture", architecture), ("general.type", file.field("general.type", str, ""))):
        if value in _NOT_MODELS:
            raise InputError(f"{file.path}: {key} is {value!r}: {_NOT_MODELS[value]}")
    experts = file.field(f"{architecture}.expert_count", int, 0)
    known = FAMILIES if not experts else {}
    if architecture not in FAMILIES:
        raise InputError(
            f"{file.path}: general.architecture is {architecture!r}, of GGUF files ellm reads {', '.join(FAMILIES)}"
        )
    if architecture not in known:
        raise InputError(
            f"{file.path}: {architecture}.expert_count is {experts}, must be 0: experts are read from safetensors"
        )
    return known[architecture]
