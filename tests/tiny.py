"""Writes tiny random checkpoints in Hugging Face's format, without torch: one seed gives the same bytes everywhere."""

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("a", "n"), ("Ġ", "a"), ("o", "n")]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_checkpoint(
    folder,
    architecture="LlamaForCausalLM",
    *,
    seed=0,
    vocab=331,
    layers=2,
    rope=None,
    form="old",
    shards=1,
    **overrides,
) -> Path:
    """Writes config.json, bf16 safetensors, tokenizer.json, tokenizer_config.json and generation_config.json.

    `rope` is a name in ROPES, a dict in config.json's form, or None. `form` is "old" (rope_theta + rope_scaling) or
    "new" (rope_parameters). With `shards` > 1 the weights are spread over that many files with an index. The
    vocabulary must hold the tokenizer's 267 tokens. Other keywords are fields of config.json; `...` leaves one out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(architecture, vocab=vocab, layers=layers, rope=rope, form=form, **overrides)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [2, 0]})
    write_tokenizer(folder)
    write_weights(folder, random_weights(config, seed), shards)
    return folder


def make_config(architecture="LlamaForCausalLM", *, vocab=331, layers=2, rope=None, form="old", **overrides) -> dict:
    """config.json of a tiny model; sizes are no multiple of 16 unless overridden."""
    config = {
        "architectures": [architecture],
        "model_type": FAMILIES[architecture],
        "vocab_size": vocab,
        "hidden_size": 88,
        "intermediate_size": 200,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    scaling = dict(ROPES[rope]) if isinstance(rope, str) else rope
    theta = overrides.pop("rope_theta", 10000.0)
    if form == "old":
        config |= {"rope_theta": theta, "rope_scaling": scaling}
    else:
        config["rope_parameters"] = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
        config["dtype"] = config.pop("torch_dtype")
    config |= overrides
    return {name: value for name, value in config.items() if value is not ...}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, as in the state_dict of transformers."""
    hidden, inner, family = config["hidden_size"], config["intermediate_size"], config["model_type"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    projections = {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    biased = set()
    if family == "qwen2":
        biased = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
    if config.get("attention_bias"):
        biased |= {name for name in projections if name.startswith("self_attn")}
    if config.get("mlp_bias"):
        biased |= {name for name in projections if name.startswith("mlp")}
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        found[f"{prefix}.input_layernorm.weight"] = (hidden,)
        found[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        for name, shape in projections.items():
            found[f"{prefix}.{name}.weight"] = shape
            if name in biased:
                found[f"{prefix}.{name}.bias"] = shape[:1]
        if family == "qwen3":
            found[f"{prefix}.self_attn.q_norm.weight"] = (head_dim,)
            found[f"{prefix}.self_attn.k_norm.weight"] = (head_dim,)
    found["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def random_weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Name -> uint16 bf16 bits. Scales keep the softmax over the vocabulary peaked and attention selective."""
    return {
        name: random_tensor(name, shape, np.random.PCG64([seed, number]))
        for number, (name, shape) in enumerate(shapes(config).items())
    }


def random_tensor(name: str, shape: tuple[int, ...], bits: np.random.PCG64) -> np.ndarray:
    """uint16 bf16 bits of one tensor; raw integers only: NumPy promises to keep those, not its normals."""
    lanes = bits.random_raw(int(np.prod(shape))).view(np.uint16).reshape(-1, 4)
    normal = (lanes.sum(axis=1, dtype=np.int64) - 2 * 65535).astype(np.float32) / np.float32(65536 / np.sqrt(3.0))
    if name.endswith("norm.weight"):
        center = 1.5 if ".self_attn." in name else 1.0
        values = np.float32(center) + np.float32(0.2) * normal
    elif name.endswith(".bias"):
        values = np.float32(0.5) * normal
    else:
        gain = 2.5 if name in ("model.embed_tokens.weight", "lm_head.weight") else 1.5
        values = np.float32(gain / np.sqrt(shape[1])) * normal
    return to_bf16(values).reshape(shape)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 bf16 bits, rounded to nearest even (finite values)."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 bf16 bits -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_weights(folder: Path, weights: dict[str, np.ndarray], shards: int) -> None:
    """model.safetensors, or `shards` files and model.safetensors.index.json."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
        return
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(weights)}
    for file in sorted(set(places.values())):
        write_safetensors(folder / file, {name: bits for name, bits in weights.items() if places[name] == file})
    total = sum(bits.nbytes for bits in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def write_safetensors(path: Path, weights: dict[str, np.ndarray]) -> None:
    """One file of BF16 tensors from their bits: NumPy has no bf16 for the safetensors package to save."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, bits in weights.items():
        begin, end = end, end + bits.nbytes
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for bits in weights.values():
            file.write(np.ascontiguousarray(bits, dtype="<u2").data)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of 267 tokens (3 special, 256 bytes, 8 merges) and its chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(left + right for left, right in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 1024,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
