"""Writes a checkpoint of random bf16 weights with the exact shapes of a config.json (llama, mistral, qwen2, qwen3).

python bench/make_checkpoint.py bench/configs/qwen3-0.6b.json /tmp/qwen3-0.6b [--layers N]

Reads and time per token depend on the shapes alone, so such a checkpoint measures speed; its text is noise. The
tokenizer has 267 tokens whatever the vocabulary. Memory stays below 200 MB: tensors are made and written in pieces.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import FAMILIES, shapes, write_json, write_tokenizer

SHARD_BYTES = 2 << 30
PIECE = 16 << 20  # values made at once
ONE = 0x3F80  # 1.0 in bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json, or the folder that holds it")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--layers", type=int, help="keep only so many layers")
    arguments = parser.parse_args()
    file = arguments.config / "config.json" if arguments.config.is_dir() else arguments.config
    config = json.loads(file.read_text())
    if config["model_type"] not in FAMILIES.values():
        parser.error(f"{file}: model_type {config['model_type']!r} is none of {', '.join(FAMILIES.values())}")
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
    arguments.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    total = write_random_weights(arguments.out, shapes(config))
    write_json(arguments.out / "config.json", config)
    write_tokenizer(arguments.out)
    print(f"{arguments.out}: {total / 1e9:.2f} GB in {time.perf_counter() - begin:.1f} s")


def write_random_weights(folder: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """Writes the shards and their index; returns the bytes of all tensors."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors.items():
        if shards[-1] and sum(map(tensor_bytes, shards[-1].values())) + tensor_bytes(shape) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = shape
    places, generator = {}, np.random.default_rng(0)
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / file, shard, generator)
        places |= dict.fromkeys(shard, file)
    total = sum(map(tensor_bytes, tensors.values()))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return total


def write_shard(path: Path, shard: dict[str, tuple[int, ...]], generator: np.random.Generator) -> None:
    header, end = {}, 0
    for name, shape in shard.items():
        begin, end = end, end + tensor_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shard.items():
            for first in range(0, math.prod(shape), PIECE):
                count = min(PIECE, math.prod(shape) - first)
                ones = name.endswith("norm.weight")
                file.write(np.full(count, ONE, "<u2") if ones else noise(count, shape, generator))


def noise(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """uint16 [count] bf16 bits: random sign and mantissa, exponent one of four up to about 1 / sqrt(fan-in)."""
    bits = np.frombuffer(generator.bytes(2 * count), "<u2")
    top = 127 - math.ceil(math.log2(shape[-1]) / 2)
    return (bits & 0x807F) | ((top - ((bits >> 7) & 3)) << 7).astype("<u2")


def tensor_bytes(shape: tuple[int, ...]) -> int:
    return 2 * math.prod(shape)


if __name__ == "__main__":
    main()
