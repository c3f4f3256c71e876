"""Writes a GGUF file of random weights with the exact names, shapes and block types that a config.json implies.

python bench/make_gguf.py bench/configs/qwen3-0.6b OUT.gguf --type q4_k_m [--layers N]

Types are those of `llama-quantize`, mixed as it mixes them; families are Qwen3 and Qwen3-MoE, whose files have the rows
of their checkpoints in order. Blocks are random where their scales allow finite numbers of ordinary size. Such a file
measures speed, its text is noise: see make_checkpoint.py.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from make_checkpoint import router, stored
from tokenizers import pre_tokenizers

ARCHITECTURES = {"qwen3": gguf.MODEL_ARCH.QWEN3, "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE}
POOL = 8 << 20  # random bytes that blocks are cut from
TYPES = {"q4_k_m": Type.Q4_K, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q6_k": Type.Q6_K, "bf16": Type.BF16}
HALVES = {  # byte of each f16 of a block, and what it is for weights whose standard deviation is 1
    Type.Q4_K: {0: 1 / 200, 2: 7.5 / 200},  # a scale of 6 bits times (a code - 7.5)
    Type.Q6_K: {208: 1 / 1400},  # a signed byte times (a code - 32)
    Type.Q8_0: {0: 1 / 74},
    Type.Q4_0: {0: 1 / 4.6},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json, or the folder that holds it")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--type", choices=TYPES, default="q4_k_m")
    parser.add_argument("--layers", type=int, help="keep only so many layers")
    arguments = parser.parse_args()
    file = arguments.config / "config.json" if arguments.config.is_dir() else arguments.config
    config = json.loads(file.read_text())
    if config.get("model_type") not in ARCHITECTURES:
        parser.error(f"{file}: model_type is {config.get('model_type')!r}, must be {' or '.join(ARCHITECTURES)}")
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
    write(arguments.out, config, arguments.type)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e9:.2f} GB")


def write(path: Path, config: dict[str, Any], kind: str) -> None:
    """One tensor after the other, so that memory stays small."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    add_keys(writer, config)
    add_tokenizer(writer, config["vocab_size"])
    shapes = tensors(config, architecture)
    types = {name: type_of(name, shape, kind, config, shapes) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        size = gguf.quant_shape_to_byte_shape(shape, types[name])
        writer.add_tensor_info(name, size, np.dtype(np.uint8), math.prod(size), raw_dtype=types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.Generator(np.random.SFC64(0))
    for name, shape in shapes.items():
        writer.write_tensor_data(numbers(name, shape, types[name], generator))
    writer.close()


def add_keys(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """What says the geometry."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_tokenizer(writer: gguf.GGUFWriter, vocab: int) -> None:
    """Bytes, one merge, the end of a text, and tokens that no text becomes: in answers they say which they are."""
    known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|endoftext|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*known, *(f"[{number}]" for number in range(len(known), vocab))])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([normal] * 257 + [control] + [normal] * (vocab - len(known)))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)


def tensors(config: dict[str, Any], architecture: gguf.MODEL_ARCH) -> dict[str, tuple[int, ...]]:
    """Shapes by name, the matrices of all experts of a layer in one tensor."""
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    found: dict[str, tuple[int, ...]] = {}
    for name, (_, shape) in stored(config).items():
        before, experts, number = name.partition(".experts.")
        whole = before + experts + number.partition(".")[2] if experts else name
        key = names.get_name(whole, (".weight",))
        assert key
        found[key] = (config["num_experts"], *shape) if experts else shape
    return found


def type_of(name: str, shape: tuple[int, ...], kind: str, config: dict[str, Any], shapes: dict[str, Any]) -> Type:
    """What llama-quantize makes of a tensor (src/llama-quant.cpp): the head, or the embedding that is one, has 6 bits
    at least, and in `m` mixes so have values and down projections of about half the layers."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return Type.F32
    plain = TYPES[kind]
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    if kind in ("q8_0", "bf16"):
        return plain
    if name == head:
        return Type.Q6_K
    if kind == "q4_k_m" and ("attn_v" in name or "ffn_down" in name):
        layer, layers = int(name.split(".")[1]), config["num_hidden_layers"]
        if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
            return Type.Q6_K
    return plain


def numbers(name: str, shape: tuple[int, ...], kind: Type, generator: np.random.Generator) -> np.ndarray:
    """A tensor's data, uint8; numbers are about 1 / sqrt(columns), those of the embedding 1."""
    if "ffn_gate_inp" in name:
        return router("F32", shape, generator)  # type: ignore[arg-type]
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    deviation = 1.0 if name.startswith("token_embd") else 1 / math.sqrt(shape[-1])
    count = math.prod(gguf.quant_shape_to_byte_shape(shape, kind))
    if kind is Type.BF16:
        pool = gguf.quants.quantize(deviation * generator.standard_normal(POOL // 2, np.float32), kind)
    else:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        pool = np.frombuffer(generator.bytes(POOL // size * size), np.uint8).reshape(-1, size).copy()
        for place, scale in HALVES[kind].items():
            pool[:, place : place + 2] = np.array([deviation * scale], "<f2").view(np.uint8)
    return np.resize(pool.reshape(-1), count)


if __name__ == "__main__":
    main()
