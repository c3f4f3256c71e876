"""What the code says to a minimal model of each form: None if it would run, else the line that refuses it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from families import FAMILIES, Family, family
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from model_configs import CONFIGS
from tiny import QUANTIZATION, make_config, write_checkpoint
from tiny_gguf import ARCHITECTURES as GGUF_NAMES
from tiny_gguf import random_floats, stored_name, write_gguf
from tiny_shapes import shapes

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.sources import check_tensors
from ellm.compiled import Options, Source, compile_model
from ellm.kernels.contract import TILE
from ellm.kernels.formats import FORMATS
from ellm.models import Model, from_config
from ellm.system.errors import InputError

MAX_POSITION, ORIGINAL, FACTOR = 4096, 1024, 4
ROPES: dict[str, dict] = {
    "linear": {"factor": FACTOR},
    "dynamic": {"factor": FACTOR},
    "yarn": {"factor": FACTOR, "original_max_position_embeddings": ORIGINAL},
    "longrope": {"short_factor": [1.0] * 9, "long_factor": [2.0] * 9, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": FACTOR,
        "original_max_position_embeddings": ORIGINAL,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}
ROPES["su"] = ROPES["longrope"]
KIMI = {"auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}}
KIMI["added_tokens_decoder"] = {"256": {"content": "[BOS]", "special": True}}
FILES: dict[str, tuple[set[str], dict]] = {  # a folder's tokenizer: its files, and tokenizer_config.json
    "tokenizer.json": (set(), {}),
    "tokenizer.model": ({"tokenizer.model"}, {}),
    "tekken.json": ({"tekken.json"}, {}),
    "Kimi's tiktoken.model": ({"tiktoken.model"}, KIMI),
    "other tiktoken.model": ({"tiktoken.model"}, {}),
    "vocab.json and merges.txt of GPT2Tokenizer": ({"vocab.json", "merges.txt"}, {"tokenizer_class": "GPT2Tokenizer"}),
    "vocab.json and merges.txt of Qwen2Tokenizer": (
        {"vocab.json", "merges.txt"},
        {"tokenizer_class": "Qwen2Tokenizer"},
    ),
    "vocab.json and merges.txt of other classes": ({"vocab.json", "merges.txt"}, {"tokenizer_class": "CTRLTokenizer"}),
    "none of these": (set(), {}),
}
TOKENIZERS = ("gpt2", "llama", "bert", "t5", "rwkv", "plamo2", "none")
"""tokenizer.ggml.model, as llama.cpp knows it."""


def line(work: Callable[[], object], path: Path | None = None) -> str | None:
    """The line that refuses some work on the model of this path; None if none does."""
    try:
        work()
    except InputError as error:
        return told(error, path)
    return None


def told(error: InputError, path: Path | None) -> str:
    """The line with MODEL instead of its path."""
    return str(error).replace(str(path), "MODEL") if path else str(error)


def stored_formats(architecture: str, precision: str | None) -> set[str]:
    """The formats of the packed weights of a family's checkpoint in this precision. Raises InputError."""
    source = Source(make_config(architecture, precision=precision))
    program = compile_model(source, Options(context=64, chunk=64)).program
    return {weight.format for weight in program.weights if weight.layout == "tiles"}


def precision(name: str) -> str | None:
    """What tiny.make_config calls a format."""
    return name if name == "f16" or name in QUANTIZATION else None


def quantization(method: str) -> str | None:
    return line(lambda: from_config({**CONFIGS["qwen3_moe"], "quantization_config": {"quant_method": method}}))


def packed_in(quantization: dict, dtype: str) -> str:
    """What a projection is packed in where the config is alone, and its bits."""
    model = from_config(make_config() | {"quantization_config": quantization, "torch_dtype": dtype})
    format = FORMATS[model.precision("model.layers.0.mlp.down_proj.weight")]
    return f"{format.name}, {8 * format.column_bytes(64) / (64 * TILE):.4g} bits"


def rope(kind: str) -> Model:
    """A model of MAX_POSITION positions with a rope of this kind. Raises InputError."""
    scaling = {"rope_type": kind, **ROPES.get(kind, {"factor": FACTOR})}
    return from_config({**CONFIGS["llama"], "max_position_embeddings": MAX_POSITION, "rope_scaling": scaling})


def partial_rope(architecture: str) -> str | None:
    """Where half of each head's dims are to be rotated."""
    return line(lambda: from_config(make_config(architecture, head_dim=24) | {"partial_rotary_factor": 0.5}))


def gguf_architectures(name: str, folder: Path) -> list[str]:
    """The architectures that general.architecture is computed as. Raises InputError."""
    known = [record for record in FAMILIES if GGUF_NAMES.get(record.model_type, record.model_type) == name]
    return [_gguf_architecture(name, record, folder) for record in known or [family("llama")]]


def _gguf_architecture(name: str, record: Family, folder: Path) -> str:
    made = record if record.model_type in GGUF_NAMES or record.experts is None else family("llama")
    window = {"sliding_window": 64} if made.model_type == "mistral" else {}  # which tells it from a Llama
    config = make_config(made.architecture, layers=1, **window)
    model_type = config["model_type"] if made.model_type in GGUF_NAMES else name
    path = write_gguf(folder / f"{name}.gguf", {**config, "model_type": model_type}, random_floats(config))
    with open_checkpoint(path) as checkpoint:
        return checkpoint.config["architectures"][0]


def gguf_type(kind: GGMLQuantizationType, folder: Path) -> str | None:
    """With every matrix of a type, whose blocks are zeros."""
    config = make_config(vocab=268, layers=1, hidden_size=256, head_dim=64, intermediate_size=256)
    path, (block, size) = folder / f"{kind.name}.gguf", GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (
        ("context_length", 64),
        ("embedding_length", 256),
        ("block_count", 1),
        ("feed_forward_length", 256),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-6)
    for name, shape in shapes(config).items():
        if len(shape) == 1:
            writer.add_tensor(stored_name(name), np.zeros(shape, np.float32))
        else:
            writer.add_tensor(
                stored_name(name), np.zeros((shape[0], shape[1] // block * size), np.uint8), raw_dtype=kind
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return line(lambda: _load(path), path)


def _load(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        check_tensors(compile_model(Source.of(checkpoint), Options(context=64)).program.weights, checkpoint)


def gguf_tokenizer(model: str, folder: Path, pre: str | None = None) -> str | None:
    """With the vocabulary of a byte-level BPE or, for "llama", of SentencePiece."""
    config = make_config(layers=1, vocab=274 if model == "llama" else 268)
    path = write_gguf(
        folder / "tokenizer.gguf", config, random_floats(config), tokenizer="llama" if model == "llama" else "gpt2"
    )
    _replace(path, b"tokenizer.ggml.model", model)
    if pre is not None:
        _replace(path, b"tokenizer.ggml.pre", pre)
    return line(lambda: open_checkpoint(path).tokenizer, path)


def _replace(path: Path, key: bytes, text: str) -> None:
    """Write another text as the value of a key. Tensors begin behind the metadata, wherever that ends."""
    data = path.read_bytes()
    begin = data.index(key + b"\x08\x00\x00\x00") + len(key) + 4
    end = begin + 8 + int.from_bytes(data[begin : begin + 8], "little")
    path.write_bytes(data[:begin] + len(text).to_bytes(8, "little") + text.encode() + data[end:] + bytes(64))


def folder_tokenizer(files: str, folder: Path) -> str | None:
    """Of a folder with nothing but these beside its weights."""
    path = write_checkpoint(folder / files.replace(" ", "-"), layers=1)
    if files != "tokenizer.json":
        (path / "tokenizer.json").unlink()
        (path / "tokenizer_config.json").write_text(json.dumps(FILES[files][1]))
    for name in FILES[files][0]:
        (path / name).write_bytes(_contents(name))
    return line(lambda: open_checkpoint(path).tokenizer.encode("a"), path)


def _contents(name: str) -> bytes:
    if name == "tiktoken.model":
        return b"".join(base64.b64encode(bytes([byte])) + f" {byte}\n".encode() for byte in range(256))
    if name == "tekken.json":
        tokens = [{"token_bytes": base64.b64encode(bytes([byte])).decode()} for byte in range(256)]
        return json.dumps({"config": {"pattern": "."}, "vocab": tokens}).encode()
    if name == "tokenizer.model":
        pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256)), ("a", 1)]
        return b"".join(_piece(text.encode(), kind) for text, kind in pieces)
    return json.dumps({"a": 0, "b": 1, "ab": 2}).encode() if name == "vocab.json" else b"#version: 0.2\na b\n"


def _piece(text: bytes, kind: int) -> bytes:
    """A SentencePiece of a ModelProto: text, score 0, kind."""
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\0\0" + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body
