"""Writes tiny random checkpoints in Hugging Face's format, without torch: one seed gives the same bytes everywhere."""

import json
from pathlib import Path

import numpy as np
from families import family
from tiny_formats import from_bf16, from_fp8, from_mxfp4, to_bf16, to_fp8, to_mxfp4
from tiny_shapes import number_format, shapes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["from_bf16", "make_config", "random_weights", "shapes", "to_bf16", "write_checkpoint"]

ROPES: dict[str, dict] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    "yarn-mscale": {
        "type": "yarn",
        "factor": 8,
        "original_max_position_embeddings": 128,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "yarn-untruncated": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4 + [1.1] * 4 + [1.3] * 4,
        "long_factor": [1.0] * 4 + [2.5] * 4 + [17.0] * 4,
        "original_max_position_embeddings": 256,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
}
QUANTIZATION: dict[str, dict] = {
    "fp8": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "mxfp4": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
SAFETENSORS = {"uint16": "BF16", "float16": "F16", "float32": "F32", "int8": "I8", "int32": "I32", "int64": "I64"}
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
    precision=None,
    kept_in_bf16=(),
    expanded=False,
    shards=1,
    **overrides,
) -> Path:
    """Writes config.json, safetensors, tokenizer.json, tokenizer_config.json and generation_config.json.

    `rope` is a name in ROPES, a dict in config.json's form, or None. `form` is "old" (rope_theta + rope_scaling) or
    "new" (rope_parameters). `precision` is None (bf16), "f16", "fp8" or "mxfp4"; with `expanded` the last two are
    written as the bf16 numbers that their codes and scales mean. `kept_in_bf16` are parts of names for which fp8 makes
    an exception. With `shards` > 1 the weights are spread over that
    many files with an index. The vocabulary must hold the tokenizer's 267 tokens. Other keywords are fields of
    config.json; `...` leaves one out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(
        architecture, vocab=vocab, layers=layers, rope=rope, form=form, precision=precision, **overrides
    )
    if kept_in_bf16:
        config["quantization_config"]["modules_to_not_convert"] = list(kept_in_bf16)
    weights = random_weights(config, seed)
    if expanded:
        del config["quantization_config"]
        weights = expand(weights)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [2, 0]})
    write_tokenizer(folder)
    write_weights(folder, weights, shards)
    return folder


def make_config(
    architecture="LlamaForCausalLM", *, vocab=331, layers=2, rope=None, form="old", precision=None, **overrides
) -> dict:
    """config.json of a tiny model; sizes are no multiple of 16 unless overridden."""
    record = family(architecture)
    config = {
        "architectures": [architecture],
        "model_type": record.model_type,
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
        "torch_dtype": "float16" if precision == "f16" else "bfloat16",
    }
    config |= record.config
    if precision in QUANTIZATION:
        config["quantization_config"] = dict(QUANTIZATION[precision])
    scaling = dict(ROPES[rope]) if isinstance(rope, str) else rope
    theta = overrides.pop("rope_theta", 10000.0)
    if form == "old":
        config |= {"rope_theta": theta, "rope_scaling": scaling}
    else:
        config["rope_parameters"] = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
        config["dtype"] = config.pop("torch_dtype")
    config |= overrides
    return {name: value for name, value in config.items() if value is not ...}


def random_weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Name -> stored tensor: uint16 is bf16 bits, uint8 codes of fp8 or mxfp4 or their scales, the rest itself.

    The sizes of the numbers keep the softmax over the vocabulary peaked and attention and routers selective.
    """
    found = {}
    for number, (name, shape) in enumerate(shapes(config).items()):
        values = random_tensor(name, shape, np.random.PCG64([seed, number]))
        found |= encode(name, values, number_format(config, name))
    return found


def random_tensor(name: str, shape: tuple[int, ...], bits: np.random.PCG64) -> np.ndarray:
    """float32 values of one tensor; raw integers only: NumPy promises to keep those, not its normals."""
    lanes = bits.random_raw(int(np.prod(shape))).view(np.uint16).reshape(-1, 4)
    normal = (lanes.sum(axis=1, dtype=np.int64) - 2 * 65535).astype(np.float32) / np.float32(65536 / np.sqrt(3.0))
    if name.endswith("norm.weight"):
        center = 1.5 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0
        values = np.float32(center) + np.float32(0.2) * normal
    elif name.endswith("e_score_correction_bias"):
        values = np.float32(0.2) * normal
    elif name.endswith((".bias", "_bias", ".sinks")):
        values = np.float32(0.5) * normal
    else:
        values = np.float32(gain(name) / np.sqrt(shape[1])) * normal
    return values.reshape(shape)


def gain(name: str) -> float:
    """How much wider a product with this matrix is than what it multiplies."""
    wide = name.endswith(("embed_tokens.weight", "lm_head.weight", ".gate.weight", ".router.weight"))
    return 2.5 if wide else 1.5


def encode(name: str, values: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """The stored tensors of one, in fp8, mxfp4, or a safetensors type."""
    if kind == "fp8":
        codes, scales = to_fp8(values)
        return {name: codes, f"{name}_scale_inv": scales}
    if kind == "mxfp4":
        blocks, scales = to_mxfp4(values.swapaxes(1, 2))
        return {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return {name: {"BF16": to_bf16, "F16": np.float16, "F32": np.float32}[kind](values)}


def expand(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights with fp8 and mxfp4 as bf16: the product of code and scale in float32, rounded once."""
    found = {}
    for name, values in weights.items():
        if name.endswith("_blocks"):
            base = name.removesuffix("_blocks")
            found[base] = to_bf16(from_mxfp4(values, weights[f"{base}_scales"]).swapaxes(1, 2))
        elif f"{name}_scale_inv" in weights:
            found[name] = to_bf16(from_fp8(values, weights[f"{name}_scale_inv"]))
        elif not name.endswith(("_scale_inv", "_scales")):
            found[name] = values
    return found


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
    """One file of stored tensors: NumPy has no bf16 or fp8 for the safetensors package to save."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in weights.items():
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": stored_type(name, values), "shape": list(values.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in weights.values():
            file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


def stored_type(name: str, values: np.ndarray) -> str:
    """The safetensors type of a stored tensor."""
    if values.dtype == np.uint8:
        return "U8" if name.endswith(("_blocks", "_scales")) else "F8_E4M3"
    return SAFETENSORS[values.dtype.name]


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
