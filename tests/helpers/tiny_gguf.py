"""Writes tiny GGUF files with the gguf package: random weights and a small tokenizer."""

import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import formats
import gguf
import latent_gguf
import numpy as np
import tiny
from gguf import GGMLQuantizationType
from tiny_shapes import is_latent

STORED = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    **{name: f"nextn.{name}" for name in ("eh_proj", "enorm", "hnorm")},
    "shared_head.norm": "nextn.shared_head_norm",
    **latent_gguf.STORED,
}
# 256 columns: the K-quants' block
SIZES = dict(vocab=268, layers=2, hidden_size=256, head_dim=32, num_attention_heads=8, intermediate_size=256)
ARCHITECTURES = {  # general.architecture, where it is not model_type
    "mistral": "llama",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "glm4_moe": "glm4moe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "gpt_oss": "gpt-oss",
}
KEYS = {  # of fields of config.json that not every family has
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), "expert_count"),
    "num_experts_per_tok": "expert_used_count",
    "n_shared_experts": "expert_shared_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "num_nextn_predict_layers": "nextn_predict_layers",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "sliding_window": "attention.sliding_window",
}
CONTROL, USER_DEFINED = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED


EXPERTS = {
    **dict.fromkeys(("mlp.gate", "mlp.router", "block_sparse_moe.gate"), "ffn_gate_inp"),
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    **{f"mlp.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
    **{
        f"block_sparse_moe.experts.w{number}": f"ffn_{part}_exps"
        for number, part in enumerate(("gate", "down", "up"), 1)
    },
}
PARAMETERS = {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias", "self_attn.sinks": "attn_sinks.weight"}
EXPERT = re.compile(r"(.*\.experts)\.(\d+)(\..*)")


def apart(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights with the gate, up and down of gpt-oss by themselves, [experts, out, in], as they are stored."""
    found = {}
    for name, values in weights.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj(_bias)?", name)
        if not match:
            found[name] = values
            continue
        matrix = values if match[3] else values.swapaxes(1, 2)
        parts = {"gate": matrix[:, 0::2], "up": matrix[:, 1::2]} if match[2] == "gate_up" else {"down": matrix}
        for part, rows in parts.items():
            found[f"blk.{match[1]}.ffn_{part}_exps.{'bias' if match[3] else 'weight'}"] = np.ascontiguousarray(rows)
    return found


def stacked(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights with the matrices of all experts of a layer in one, without their number in its name."""
    found: dict = {}
    for name, values in weights.items():
        match = EXPERT.fullmatch(name)
        found.setdefault(f"{match[1]}{match[3]}" if match else name, []).append(values)
    return {name: np.stack(values) if ".experts." in name else values[0] for name, values in found.items()}


def stored_name(name: str) -> str:
    """blk.3.attn_q.weight for model.layers.3.self_attn.q_proj.weight."""
    for ending, stored in PARAMETERS.items():
        if name.endswith(ending):
            return f"blk.{name.split('.')[2]}.{stored}"
    stem, suffix = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{STORED[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{(STORED | EXPERTS)[part]}.{suffix}"


def fused(weights: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """The weights as llama.cpp's converter stores them with --fuse-qkv and --fuse-gate-up-exps."""
    found: dict = {}
    for name, values in stacked(apart(weights)).items():
        stored = stored_name(name) if name.startswith("model.layers.") else name
        if stored.startswith("blk.") and ".attn_" in stored and stored.split(".")[2] in ("attn_q", "attn_k", "attn_v"):
            if config["model_type"] in ("llama", "mixtral") and ".attn_v." not in stored:
                heads = "num_attention_heads" if ".attn_q." in stored else "num_key_value_heads"
                values = permuted(values, config[heads])
            stored = f"blk.{stored.split('.')[1]}.attn_qkv.{stored.split('.')[3]}"
        stored = stored.replace("ffn_gate_exps", "ffn_gate_up_exps").replace("ffn_up_exps", "ffn_gate_up_exps")
        found.setdefault(stored, []).append(values)
    return {
        name: np.concatenate(values, 1 if "_exps" in name else 0) if len(values) > 1 else values[0]
        for name, values in found.items()
    }


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """The order of llama q and k rows in a GGUF file (llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute)."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def random_floats(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 weights by their Hugging Face names."""
    stored = tiny.random_weights(config, seed)
    return {name: tiny.from_bf16(bits) if bits.dtype == np.uint16 else bits for name, bits in stored.items()}


def write_tiny(
    folder, architecture="LlamaForCausalLM", dtype=GGMLQuantizationType.F32, extra=None, config=None, **keys
):
    """A model of SIZES in tiny.gguf: its config.json, its weights with `extra` stored ones, and the file's path."""
    config = tiny.make_config(architecture, **SIZES, **(config or {}))
    weights = random_floats(config) | (extra or {})
    return config, weights, write_gguf(folder / "tiny.gguf", config, weights, dtype, **keys)


def write_gguf(
    path: Path,
    config: dict,
    weights: dict[str, np.ndarray],
    dtype=GGMLQuantizationType.F32,
    tokenizer: str | Callable[[gguf.GGUFWriter], None] | None = "gpt2",
    most_tensors: int = 0,
    fields: dict | None = None,
    expanded: bool = False,
    **metadata,
) -> Path:
    """Matrices become `dtype`, vectors stay F32, bytes are MXFP4; latent attention is in the old form if `expanded`.

    `metadata` adds or replaces keys of the architecture (dots as __), `fields` others; `tokenizer` may add what it
    likes.

    With `most_tensors`, the model is split over files of so many at most, and the first of them is returned.
    """
    architecture = ARCHITECTURES.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=most_tensors)
    keys = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0),
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_theta"],
        **(latent_gguf.keys(config, expanded) if is_latent(config) else head_keys(config)),
        **{key: config[field] for field, key in KEYS.items() if config.get(field) is not None},
        **rope_keys(config),
        **({"expert_feed_forward_length": config["intermediate_size"]} if architecture == "gpt-oss" else {}),
    } | {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in keys.items():
        add_value(writer, f"{architecture}.{key}", value)
    for key, value in (fields or {}).items():
        add_value(writer, key, value)
    if tokenizer:
        {"gpt2": add_byte_level, "llama": add_sentencepiece}.get(tokenizer, tokenizer)(writer)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = stacked(apart(weights))
    for name, values in (weights if expanded or not is_latent(config) else latent_gguf.parted(weights, config)).items():
        for projection, count in heads.items():
            if projection in name and architecture in ("llama", "smollm3"):
                values = permuted(values, count)
        stored = stored_name(name) if name.startswith(("model.", "lm_head.")) else name
        if architecture in ("glm4moe", "gpt-oss"):
            stored = stored.replace("ffn_norm", "post_attention_norm")
        if values.dtype == np.uint8:
            writer.add_tensor(stored, values, raw_dtype=GGMLQuantizationType.MXFP4)
        elif values.ndim > 1 and dtype != GGMLQuantizationType.F32 and not stored.endswith(("_inp.weight", ".bias")):
            writer.add_tensor(stored, gguf.quants.quantize(values, dtype), raw_dtype=dtype)
        else:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if most_tensors else path


def write_blocks(path, architecture, kinds, expanded=False, **settings):
    """A tiny model whose matrices are random blocks; `kinds` tells the type of a stored stem."""
    config, weights, _ = write_tiny(path, architecture, config=settings or None)
    random = np.random.default_rng(1)
    written = gguf.GGUFWriter.add_tensor

    def add_tensor(writer, name, tensor, *rest, **options):
        if tensor.ndim < 2 or "ffn_gate_inp" in name:
            return written(writer, name, tensor, *rest, **options)
        kind = kinds(name.split(".")[-2])
        rows = formats.random_blocks(kind, tensor.size // tensor.shape[-1], tensor.shape[-1], random)
        shape = (*tensor.shape[:-1], -1)
        return written(writer, name, rows.reshape(shape), raw_dtype=GGMLQuantizationType[kind])

    with mock.patch.object(gguf.GGUFWriter, "add_tensor", add_tensor):
        return write_gguf(path / "blocks.gguf", config, weights, expanded=expanded)


def head_keys(config: dict) -> dict:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "rope.dimension_count": int(head_dim * config.get("partial_rotary_factor", 1)),
    }


def rope_keys(config: dict) -> dict:
    """Of a model with YaRN."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return {}
    names = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    keys = {f"rope.scaling.{key}": scaling[field] for field, key in names.items() if field in scaling}
    if "mscale_all_dim" in scaling:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling["mscale_all_dim"]
    return {"rope.scaling.type": "yarn", **keys}


def add_value(writer, key: str, value) -> None:
    """A field of the type that llama.cpp's converter gives such a value."""
    kinds = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
    (kinds | {list: writer.add_array})[type(value)](key, value)


def add_byte_level(writer, pre: str = "smollm") -> None:
    """The vocabulary of tiny.write_tokenizer with a user-defined token at its end, and tiny's chat template."""
    alphabet = sorted(tiny.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*tiny.SPECIAL, *alphabet, *(left + right for left, right in tiny.MERGES), "<think> "]
    kinds = [CONTROL] * len(tiny.SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - 4) + [USER_DEFINED]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{left} {right}" for left, right in tiny.MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)


def add_sentencepiece(writer) -> None:
    """A sentencepiece vocabulary: three control tokens, 256 bytes, and words with scores."""
    words = [
        word.replace("_", "\u2581")
        for word in ["_", "t", "h", "e", "a", "n", "th", "the", "_the", "_th", "he", "an", "_a", "_an", "é"]
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scores = [0.0] * 259 + [-float(len(words) - 3 * len(word)) for word in words]
    kinds = [gguf.TokenType.UNKNOWN, CONTROL, CONTROL] + [gguf.TokenType.BYTE] * 256
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
