"""Writes a checkpoint of random weights with the exact names, shapes and types that a config.json implies.

python bench/make_checkpoint.py bench/configs/qwen3-0.6b /tmp/qwen3-0.6b [--layers N] [--set NAME=VALUE ...]

Quantised models (fp8 with scales per 128 x 128 block, MXFP4) are written as such. The three that fit a small machine:

    make_checkpoint.py bench/configs/qwen3-30b-a3b /tmp/qwen3-30b-6 --layers 6
    make_checkpoint.py bench/configs/gpt-oss-20b /tmp/gpt-oss-20b-4 --layers 4
    make_checkpoint.py bench/configs/deepseek-v3 /tmp/deepseek-v3-2 --layers 2 --set n_routed_experts=64 \\
        --set first_k_dense_replace=1

Reads and time per token depend on the shapes and on which experts the tokens are routed to, so such a checkpoint
measures speed; its text is noise. Its routers are as uneven as trained ones (ellm/predict/routes.py), and its embedding
is so large that what the layers add does not make all rows alike, or all would go to the same few experts. The
tokenizer has 256 tokens whatever the vocabulary. Prediction heads are left out, unless `--set` asks for
num_nextn_predict_layers=1. Memory stays below 200 MB: tensors are made and written in pieces.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ellm.compiled import Options, Source, compile_model
from ellm.kernels.pack import to_bf16
from ellm.system.errors import InputError

BLOCK = 128  # rows and columns that share an fp8 scale
GROUP = 32  # values that share an mxfp4 scale
SHARD_BYTES = 2 << 30
PIECE = 16 << 20  # values made at once
ROUTERS = (".gate.weight", ".router.weight")
SPREAD = 0.5  # of the deviations of experts' scores: as in ellm/predict/routes.py
TYPES = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F8_E4M3": np.dtype("u1"),
    "U8": np.dtype("u1"),
}
Tensor = tuple[str, tuple[int, ...]]  # safetensors type and shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json, or the folder that holds it")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--layers", type=int, help="keep only so many layers")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a field of the config")
    arguments = parser.parse_args()
    file = arguments.config / "config.json" if arguments.config.is_dir() else arguments.config
    config = json.loads(file.read_text())
    if "num_nextn_predict_layers" in config:
        config["num_nextn_predict_layers"] = 0
    for name, value in map(assignment, arguments.set):
        config[name] = value
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
        if config.get("layer_types"):
            config["layer_types"] = config["layer_types"][: arguments.layers]
    try:
        tensors = stored(config)
    except InputError as error:
        parser.error(f"{file}: {error}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    total = write_random_weights(arguments.out, tensors)
    write_json(arguments.out / "config.json", config)
    write_tokenizer(arguments.out)
    print(f"{arguments.out}: {total / 1e9:.2f} GB in {time.perf_counter() - begin:.1f} s")


def assignment(text: str) -> tuple[str, object]:
    """NAME=VALUE, the value in JSON."""
    name, _, value = text.partition("=")
    return name, json.loads(value)


def stored(config: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor that the compiled model reads, in the precision that the config says; by name, so that each gets the
    same numbers however the model is compiled."""
    source = Source(config)
    plain = {"bf16": "BF16", "f16": "F16"}[source.model.precision("model.norm.weight")]
    found: dict[str, Tensor] = {}
    for weight in compile_model(source, Options(drafter=True)).program.weights:
        for tensor in weight.sources:
            for expert in range(weight.experts):
                name = tensor.name.replace("{expert}", str(expert))
                found[name] = (plain, tuple(tensor.shape))
                if name.endswith("e_score_correction_bias"):
                    found[name] = ("F32", found[name][1])
                if tensor.scales is not None:
                    codes, scales = ("U8", "U8") if name.endswith("_blocks") else ("F8_E4M3", "F32")
                    found[name] = (codes, found[name][1])
                    of_scales = tensor.scales.name.replace("{expert}", str(expert))
                    found[of_scales] = (scales, tuple(tensor.scales.shape))
    return dict(sorted(found.items()))


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tokenizer(folder: Path) -> None:
    """A byte-level one without merges."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_random_weights(folder: Path, tensors: dict[str, Tensor]) -> int:
    """Writes the shards and their index; returns the bytes of all tensors."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor_bytes(tensor) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor_bytes(tensor)
    places, generator = {}, np.random.Generator(np.random.SFC64(0))
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / file, shard, generator)
        places |= dict.fromkeys(shard, file)
    total = sum(map(tensor_bytes, tensors.values()))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return total


def write_shard(path: Path, shard: dict[str, Tensor], generator: np.random.Generator) -> None:
    header, end = {}, 0
    for name, (kind, shape) in shard.items():
        begin, end = end, end + tensor_bytes((kind, shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (kind, shape) in shard.items():
            for first in range(0, math.prod(shape), PIECE):
                count = min(PIECE, math.prod(shape) - first)
                values = numbers(name, kind, shape, count, generator)
                file.write(np.ascontiguousarray(values, TYPES[kind]).data)


def numbers(name: str, kind: str, shape: tuple[int, ...], count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` stored values of a tensor: random up to about 1 / sqrt(columns), norms 1, scales alike."""
    if name.endswith(ROUTERS):
        return router(kind, shape, generator).reshape(-1)
    if name.endswith("norm.weight"):
        return np.full(count, 0x3F80 if kind == "BF16" else 1)  # 1.0
    if name.endswith("_scale_inv"):
        return np.full(count, 1 / math.sqrt(BLOCK * shape[-1]))
    if name.endswith("_scales"):
        return np.full(count, 127 + exponent(GROUP * shape[-1]) - 2)  # codes reach 6
    if name.endswith("_blocks"):
        return np.frombuffer(generator.bytes(count), np.uint8)
    if kind == "F8_E4M3":  # the exponent one of 4 to 7: numbers up to 2
        bits = np.frombuffer(generator.bytes(count), np.uint8)
        return bits & 0x9F | 0x20
    columns = 1 if name.endswith("embed_tokens.weight") else shape[-1]
    values = generator.standard_normal(count, np.float32) * np.float32(2.0 ** exponent(columns))
    return to_bf16(values) if kind == "BF16" else values


def router(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Stored weights [experts, columns] of a router whose scores of rows are as ellm/predict/routes.py draws them."""
    experts, columns = shape
    deviations = np.exp(SPREAD * generator.standard_normal((experts, 1))) / math.sqrt(columns)
    weights = (deviations * generator.standard_normal(shape)).astype(np.float32)
    return (weights.view("<u4") >> 16) if kind == "BF16" else weights


def exponent(columns: int) -> int:
    """That of 1 / sqrt(columns)."""
    return -math.ceil(math.log2(columns) / 2)


def tensor_bytes(tensor: Tensor) -> int:
    kind, shape = tensor
    return TYPES[kind].itemsize * math.prod(shape)


if __name__ == "__main__":
    main()
