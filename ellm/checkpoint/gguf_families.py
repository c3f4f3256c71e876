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
_Modules = dict[str, str]
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
        fields: keys of the metadata, without the architecture, by the fields of config.json that they are.
        constants: fields of config.json that are the same for the whole family.
        present: fields of config.json that say whether layers have a module.
        neutral: values of keys that say what is so in the family anyway (see gguf_keys.py).
        pattern: which layers have a sliding window where no key says so (see gguf_config.py); None: none may have one.
        yarn: what config.json says of YaRN and no key does; a family with any has YaRN if config.json says nothing.
        latent: attention is to latents (see gguf_latent.py).
        softmax: what computes files of the family whose router weighs experts by softmax, not sigmoid, if that is
            another architecture.
        later_layers: key that counts layers behind the model's own, for prediction of more than one token.
        otherwise: what computes a file of the family that has biases which this one cannot have.
    """

    architecture: str
    model_type: str
    modules: Mapping[str, str] = field(default_factory=lambda: _LAYER)
    interleaved: bool = False
    biased: frozenset[str] = frozenset()
    switches: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    present: Mapping[str, str] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    pattern: int | None = 0
    yarn: Mapping[str, Any] = field(default_factory=dict)
    latent: bool = False
    softmax: Family | None = None
    later_layers: str = ""
    otherwise: Family | None = None

    @property
    def may_be_biased(self) -> frozenset[str]:
        """Modules of a layer that can have a bias."""
        return self.biased.union(*self.switches.values())

    @property
    def experts(self) -> str:
        """The field of config.json that counts the experts of a layer."""
        return next(name for name, key in self.fields.items() if key == "expert_count")


def _mlp(module: str, kind: str = "", names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")) -> _Modules:
    """The three matrices of a gated MLP, stored as ffn_gate, ffn_up and ffn_down with the ending `kind`."""
    return {f"ffn_{part}{kind}": f"{module}.{name}" for part, name in zip(("gate", "up", "down"), names, strict=True)}


_BIASES = {"attention_bias": ATTENTION, "mlp_bias": MLP}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", "llama", interleaved=True, switches=_BIASES),
    "qwen2": Family(
        "Qwen2ForCausalLM", "qwen2", biased=QKV, otherwise=Family("LlamaForCausalLM", "qwen2", switches=_BIASES)
    ),
    "qwen3": Family("Qwen3ForCausalLM", "qwen3", _LAYER | _HEAD_NORMS, switches={"attention_bias": ATTENTION}),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        "smollm3",
        interleaved=True,
        switches=_BIASES,
        constants={"no_rope_layer_interval": 4},
        pattern=None,
    ),
}
_ROUTER_BIAS = "exp_probs_b.bias"
_PREDICTS = {
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.shared_head_norm": "shared_head.norm",
}
_ROUTED = {"num_experts_per_tok": "expert_used_count"}
_SOFTMAX_GATING = 1
_SOFTMAX = {"expert_gating_func": (0, 1), "expert_weights_norm": (True,), "expert_weights_scale": (0, 1)}
_LATENT = {
    **{key: module for key, module in _LAYER.items() if key not in ("attn_k", "attn_v")},
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",
    "attn_v_b": "self_attn.v_b_proj",
    "ffn_gate_inp": "mlp.gate",
    **_mlp("mlp.experts.{expert}", "_exps"),
    **_mlp("mlp.shared_experts", "_shexp"),
}
_SHARED = {
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "routed_scaling_factor": "expert_weights_scale",
    **_ROUTED,
}
_GROUPED = {"n_group": "expert_group_count", "topk_group": "expert_group_used_count"}
_DEEPSEEK_V2 = Family(
    "DeepseekV2ForCausalLM",
    "deepseek_v2",
    _LATENT,
    fields=_SHARED | _GROUPED,
    constants={"topk_method": "group_limited_greedy"},  # of one group: among all experts
    neutral={"expert_gating_func": (0, 1), "expert_weights_norm": (False,)},
    pattern=None,
    latent=True,
    later_layers="nextn_predict_layers",
)
FAMILIES_WITH_EXPERTS = {
    "llama": Family(
        "MixtralForCausalLM",
        "mixtral",
        _LAYER
        | {"ffn_gate_inp": "block_sparse_moe.gate"}
        | _mlp("block_sparse_moe.experts.{expert}", "_exps", ("w1", "w3", "w2")),
        interleaved=True,
        fields={"num_local_experts": "expert_count", **_ROUTED},
        neutral=_SOFTMAX,
        pattern=None,
    ),
    "qwen3moe": Family(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        _LAYER | _HEAD_NORMS | {"ffn_gate_inp": "mlp.gate"} | _mlp("mlp.experts.{expert}", "_exps"),
        switches={"attention_bias": ATTENTION},
        fields={"num_experts": "expert_count", "moe_intermediate_size": "expert_feed_forward_length", **_ROUTED},
        constants={"norm_topk_prob": True},
        neutral=_SOFTMAX,
        pattern=None,
    ),
    "glm4moe": Family(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        _LAYER
        | _HEAD_NORMS
        | {"post_attention_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.gate"}
        | {_ROUTER_BIAS: "mlp.gate.e_score_correction_bias"}
        | _mlp("mlp.experts.{expert}", "_exps")
        | _mlp("mlp.shared_experts", "_shexp")
        | _PREDICTS,
        switches={"attention_bias": QKV},
        fields={**_SHARED, "norm_topk_prob": "expert_weights_norm"},
        constants={"n_group": 1, "topk_group": 1, "partial_rotary_factor": 1.0},
        present={"use_qk_norm": "attn_q_norm"},
        neutral={"expert_gating_func": (0, 2), "expert_group_count": (0, 1), "expert_group_used_count": (0, 1)},
        pattern=None,
        later_layers="nextn_predict_layers",
    ),
    "deepseek2": Family(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        _LATENT | _PREDICTS | {_ROUTER_BIAS: "mlp.gate.e_score_correction_bias"},
        fields={**_SHARED, **_GROUPED, "norm_topk_prob": "expert_weights_norm"},
        neutral={"expert_gating_func": (0, 1, 2)},
        pattern=None,
        latent=True,
        softmax=_DEEPSEEK_V2,
        later_layers="nextn_predict_layers",
    ),
    "gpt-oss": Family(
        "GptOssForCausalLM",
        "gpt_oss",
        _LAYER
        | {"post_attention_norm": "post_attention_layernorm", "attn_sinks.weight": "self_attn.sinks"}
        | {"ffn_gate_inp": "mlp.router"}
        | _mlp("mlp.experts.{expert}", "_exps"),
        biased=frozenset(("mlp.router", *_mlp("mlp.experts.{expert}").values())),
        switches={"attention_bias": ATTENTION},
        fields={"num_local_experts": "expert_count", "intermediate_size": "expert_feed_forward_length", **_ROUTED},
        constants={"experts_apart": True},
        neutral={"expert_gating_func": (0, 3)},
        pattern=2,
        yarn={"truncate": False},
    ),
}
_NOT_MODELS = {  # values of general.architecture and general.type
    "clip": "the vision or audio part of a model: open the language model beside it",
    "mmproj": "the vision or audio part of a model: open the language model beside it",
    "adapter": "an adapter (LoRA), which needs merging into its model",
    "imatrix": "an importance matrix for quantising, no model",
}


def _by_softmax(file: GGUFFile, architecture: str) -> bool:
    """Whether a router weighs experts by softmax; if no key says so, whether it has no bias, as sigmoid always has.

    Raises InputError if it has one.
    """
    gating = file.metadata.get(f"{architecture}.expert_gating_func", 0)
    bias = next((name for name in file.tensors if name.endswith(f".{_ROUTER_BIAS}")), None)
    if gating == _SOFTMAX_GATING and bias:
        raise InputError(
            f"{file.path}: {architecture}.expert_gating_func is {gating}, softmax, to which {bias} belongs not"
        )
    return gating == _SOFTMAX_GATING or (gating == 0 and bias is None)


def family_of(file: GGUFFile) -> Family:
    """The family of a file. Raises InputError if ellm does not have it."""
    architecture = file.field("general.architecture", str)
    for key, value in (("general.architecture", architecture), ("general.type", file.field("general.type", str, ""))):
        if value in _NOT_MODELS:
            raise InputError(f"{file.path}: {key} is {value!r}: {_NOT_MODELS[value]}")
    experts = file.field(f"{architecture}.expert_count", int, 0)
    known = FAMILIES_WITH_EXPERTS if experts else FAMILIES
    if architecture in known:
        family = known[architecture]
        return family.softmax if family.softmax and _by_softmax(file, architecture) else family
    if architecture in FAMILIES or architecture in FAMILIES_WITH_EXPERTS:
        which = "without" if experts else "with"
        raise InputError(
            f"{file.path}: {architecture}.expert_count is {experts}, of {architecture} ellm has models {which} experts"
        )
    names = ", ".join(FAMILIES | FAMILIES_WITH_EXPERTS)
    raise InputError(f"{file.path}: general.architecture is {architecture!r}, of GGUF files ellm reads {names}")
