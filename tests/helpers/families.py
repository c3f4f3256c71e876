"""What tests know of each family, said once: its tensors, its tiny config.json, and how its router weighs.

Writers of checkpoints, comparisons with transformers and `bench/make_checkpoint.py` ask these records, by architecture
or by model_type.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

Shapes = dict[str, tuple[int, ...]]
Said = bool | str
"""True or False, or the field of config.json that says which."""


def says(config: dict, said: Said) -> bool:
    """What config.json says; False for a field that it does not have."""
    return bool(config.get(said, False)) if isinstance(said, str) else said


def ungrouped(config: dict) -> tuple[int, int, int]:
    """`Router.groups` of a router that chooses among all experts."""
    return 1, 1, 1


@dataclass(frozen=True)
class Router:
    """What an expert weighs: its `score`, "softmax" or "sigmoid" of all, or "chosen", the softmax of those chosen; if
    `normalize`, divided by the sum over those chosen. `groups` of a config: how many there are, how many are kept, and
    how many of a group's best scores are summed to compare it."""

    score: str
    normalize: Said = False
    groups: Callable[[dict], tuple[int, int, int]] = ungrouped


@dataclass(frozen=True)
class Family:
    """`config` is what its tiny config.json has besides the fields of `tiny.make_config`, or instead; `...` leaves one
    out. `tied`: whether the head is the embedding where tie_word_embeddings is absent. `experts`: the tensors of a
    layer's experts and router, by name in the layer; None if it has none."""

    architecture: str
    model_type: str
    config: dict = field(default_factory=dict)
    tied: bool = False
    qkv_bias: Said = "attention_bias"
    o_bias: Said = "attention_bias"
    head_norms: Said = False
    sinks: bool = False
    experts: Callable[[dict], Shapes] | None = None
    router: Router | None = None


def family(name: str) -> Family:
    """The record of an architecture or a model_type."""
    for record in FAMILIES:
        if name in (record.architecture, record.model_type):
            return record
    known = ", ".join(record.architecture for record in FAMILIES)
    raise LookupError(f"tests/helpers/families.py has no record of {name!r}, only of {known}: see docs/add-a-model.md")


def linear(name: str, rows: int, columns: int, biased: bool = False) -> Shapes:
    weight: Shapes = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if biased else weight


def mlp(hidden: int, inner: int, biased: bool = False) -> Shapes:
    return {
        **linear("gate_proj", inner, hidden, biased),
        **linear("up_proj", inner, hidden, biased),
        **linear("down_proj", hidden, inner, biased),
    }


def under(prefix: str, tensors: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in tensors.items()}


def numbered(count: int, tensors: Shapes) -> Shapes:
    """`tensors` of each of `count` experts."""
    return {name: shape for e in range(count) for name, shape in under(f"mlp.experts.{e}", tensors).items()}


def qwen3_moe_experts(config: dict) -> Shapes:
    hidden, experts = config["hidden_size"], config["num_experts"]
    found = linear("mlp.gate", experts, hidden)
    return found | numbered(experts, mlp(hidden, config["moe_intermediate_size"]))


def deepseek_v2_experts(config: dict, corrected: bool = False) -> Shapes:
    """With `corrected`, the router has a bias for the choice."""
    hidden, experts, inner = config["hidden_size"], config["n_routed_experts"], config["moe_intermediate_size"]
    found = linear("mlp.gate", experts, hidden)
    if corrected:
        found["mlp.gate.e_score_correction_bias"] = (experts,)
    found |= numbered(experts, mlp(hidden, inner))
    return found | under("mlp.shared_experts", mlp(hidden, inner * config["n_shared_experts"]))


def deepseek_v3_experts(config: dict) -> Shapes:
    return deepseek_v2_experts(config, corrected=True)


def mixtral_experts(config: dict) -> Shapes:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    found = linear("block_sparse_moe.gate", experts, hidden)
    for expert in range(experts):
        prefix = f"block_sparse_moe.experts.{expert}"
        found |= {**linear(f"{prefix}.w1", inner, hidden), **linear(f"{prefix}.w3", inner, hidden)}
        found |= linear(f"{prefix}.w2", hidden, inner)
    return found


def gpt_oss_experts(config: dict) -> Shapes:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    return {
        **linear("mlp.router", experts, hidden, True),
        "mlp.experts.gate_up_proj": (experts, hidden, 2 * inner),
        "mlp.experts.gate_up_proj_bias": (experts, 2 * inner),
        "mlp.experts.down_proj": (experts, inner, hidden),
        "mlp.experts.down_proj_bias": (experts, hidden),
    }


def deepseek_v2_groups(config: dict) -> tuple[int, int, int]:
    return ungrouped(config) if config["topk_method"] == "greedy" else (config["n_group"], config["topk_group"], 1)


def deepseek_v3_groups(config: dict) -> tuple[int, int, int]:
    return config["n_group"], config["topk_group"], 2


LATENT = {
    "head_dim": ...,
    "num_key_value_heads": 4,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "moe_intermediate_size": 40,
}
FAMILIES = (
    Family("LlamaForCausalLM", "llama"),
    Family("MistralForCausalLM", "mistral"),
    Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True),
    Family("Qwen3ForCausalLM", "qwen3", head_norms=True),
    Family(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        {
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        head_norms=True,
        experts=qwen3_moe_experts,
        router=Router("softmax", normalize="norm_topk_prob"),
    ),
    Family(
        "MixtralForCausalLM",
        "mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 72, "sliding_window": None},
        experts=mixtral_experts,
        router=Router("softmax", normalize=True),
    ),
    Family(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        LATENT
        | {
            "q_lora_rank": None,
            "n_routed_experts": 7,
            "num_experts_per_tok": 3,
            "n_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "scoring_func": "softmax",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
        },
        experts=deepseek_v2_experts,
        router=Router("softmax", groups=deepseek_v2_groups),
    ),
    Family(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        LATENT
        | {
            "q_lora_rank": 48,
            "n_routed_experts": 12,
            "num_experts_per_tok": 4,
            "n_shared_experts": 1,
            "n_group": 3,
            "topk_group": 2,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 0,
        },
        experts=deepseek_v3_experts,
        router=Router("sigmoid", normalize="norm_topk_prob", groups=deepseek_v3_groups),
    ),
    Family(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        {
            "n_routed_experts": 12,
            "num_experts_per_tok": 4,
            "n_shared_experts": 1,
            "n_group": 3,
            "topk_group": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "moe_intermediate_size": 40,
            "first_k_dense_replace": 1,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
            "attention_bias": True,
        },
        o_bias=False,
        head_norms="use_qk_norm",
        experts=deepseek_v3_experts,
        router=Router("sigmoid", normalize="norm_topk_prob", groups=deepseek_v3_groups),
    ),
    Family(
        "GptOssForCausalLM",
        "gpt_oss",
        {
            "hidden_size": 96,
            "intermediate_size": 160,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "rms_norm_eps": 1e-5,
            "sliding_window": 50,
            "swiglu_limit": 7.0,
        },
        sinks=True,
        experts=gpt_oss_experts,
        router=Router("chosen"),
    ),
    Family("SmolLM3ForCausalLM", "smollm3", {"pad_token_id": None}, tied=True),
)
