"""Sound files that fuzzing starts from, small ones of every kind that a model's files have."""

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np
import protobuf
import tiny
import tiny_gguf
import tokenizer_folders
import vocabulary_files
from families import FAMILIES
from mutations import Files

from ellm.checkpoint import open_checkpoint, packed_file
from ellm.pack import pack

_WEIGHTS = 1 << 21  # bytes at least of the seeds' weights
_TOKENS = ["<unk>", "<s>", "</s>", "<|im_end|>", *"abcdefgh", "Ġ", "ab", "abc", "Ġa", "<0x0A>", "▁", "▁a", "<tool>"]
_GGUF_SIZES = dict(
    vocab=len(_TOKENS), layers=1, hidden_size=32, head_dim=8, num_attention_heads=4, intermediate_size=32
)
_TEMPLATES = [  # and which conversation each is given
    (tiny.CHAT_TEMPLATE, 0),
    (
        "{{ bos_token }}{%- for m in messages %}[{{ m.role|upper }}]{{ m.content|trim }}{{ eos_token }}{% endfor -%}",
        1,
    ),
    (
        "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[-1].content }}",
        1,
    ),
    (
        "{%- macro say(m) %}<|{{ m['role'] }}|>{{ m['content'] }}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% if loop.last and add_generation_prompt %}<think>{% endif %}{% endfor %}",
        0,
    ),
    (
        "{%- if tools %}{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}{% endif %}"
        "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}{{ call.function.arguments|tojson }}"
        "{% endfor %}{% elif m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}"
        "{% endfor %}{% endif %}{% endfor %}{% if enable_thinking %}<think>{% endif %}",
        2,
    ),
    (
        "{%- set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% generation %}"
        "{{ (m.content or '').split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}{% endfor %}{{ ns.n }}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ strftime_now('%Y') }}",
        2,
    ),
]
_CONVERSATIONS: list[dict] = [
    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "content": "2"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "add_generation_prompt": False,
        "variables": {"enable_thinking": False},
    },
]


def _folders(writers: list[Callable[[Path], object]]) -> list[Files]:
    """What each of these writes into a folder of its own."""
    found = []
    for write in writers:
        with TemporaryDirectory() as name:
            write(Path(name))
            found.append({path.name: path.read_bytes() for path in sorted(Path(name).iterdir())})
    return found


def safetensors() -> list[Files]:
    """One file each."""
    folders = _folders(
        [
            lambda folder: tiny.write_checkpoint(folder, layers=1, vocab=267),
            lambda folder: tiny.write_checkpoint(folder, "GptOssForCausalLM", layers=1, vocab=267, precision="mxfp4"),
        ]
    )
    return [{"model.safetensors": files["model.safetensors"]} for files in folders]


def configs() -> list[Files]:
    """Folders of each family, of each kind of rope and of each precision, without a tokenizer."""
    forms: list[dict] = [{"architecture": record.architecture} for record in FAMILIES]
    forms += [{"rope": name, "form": form} for name, form in zip(tiny.ROPES, ("old", "new") * 9, strict=False)]
    forms += [{"precision": "f16"}, {"architecture": "Qwen3ForCausalLM", "precision": "fp8"}]
    forms += [{"architecture": "DeepseekV3ForCausalLM", "num_nextn_predict_layers": 1}]

    def write(folder: Path, form: dict) -> None:
        tiny.write_checkpoint(folder, layers=1, vocab=267, shards=2, **form)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
        tiny.write_json(folder / "generation_config.json", {"eos_token_id": [2, 0], "max_length": 20, **sampling})

    return _folders([lambda folder, form=form: write(folder, form) for form in forms])  # type: ignore[misc]


def tokenizers() -> list[Files]:
    """Folders of each file that a vocabulary can be in, with the files beside it."""
    writers: list = [lambda folder, form=form: vocabulary_files.write(folder, form) for form in vocabulary_files.FORMS]
    writers += [lambda folder, seed=seed: tokenizer_folders.write(folder, seed) for seed in range(12)]
    writers += [tiny.write_tokenizer]
    writers += [_write_charsmaps]
    weights = _folders([lambda folder: tiny.write_safetensors(folder / "model.safetensors", {})])[0]
    config = {"config.json": json.dumps({"model_type": "llama", "vocab_size": 512}).encode()}
    return [weights | config | files for files in _folders(writers)]


def _write_charsmaps(folder: Path) -> None:
    """A tokenizer.model and a tokenizer.json in which normalisation turns a into b."""
    units = np.zeros(512, "<u4")
    units[0x61] = 0x61 | 1 << 8 | (0x61 ^ 0x100) << 10  # a, which may end here: at 0x100 is where its text begins
    units[0x100] = 1 << 31
    charsmap = units.nbytes.to_bytes(4, "little") + units.tobytes() + b"b\0"
    vocabulary_files.write(folder, "unigram")
    with (folder / "tokenizer.model").open("ab") as file:
        file.write(protobuf.field(3 << 3 | 2, protobuf.field(2 << 3 | 2, charsmap)))
    tiny.write_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def ggufs() -> list[Files]:
    """One file each, of each family that GGUF has, in the old form of latent attention too, with each kind of
    vocabulary."""

    def write(folder: Path, architecture: str, kind: str, expanded: bool) -> None:
        sparse = {"first_k_dense_replace": 0} if expanded else {}  # which tells how its router weighs
        config = tiny.make_config(architecture, **_GGUF_SIZES, **sparse)
        fields = {"general.sampling.temp": 0.5, "general.alignment": 32}
        weights = tiny_gguf.random_floats(config)
        tiny_gguf.write_gguf(
            folder / "model.gguf",
            config,
            weights,
            tokenizer=lambda w: _add_tokens(w, kind),
            fields=fields,
            expanded=expanded,
        )

    kinds = ("gpt2", "llama", "gemma4")
    latent = [record for record in FAMILIES if "deepseek" in record.model_type]
    records = [*((record, False) for record in FAMILIES), *((record, True) for record in latent)]
    forms = [(record.architecture, kinds[number % 3], old) for number, (record, old) in enumerate(records)]
    return _folders([lambda folder, form=form: write(folder, *form) for form in forms])  # type: ignore[misc]


def packed() -> list[Files]:
    """Headers of packed files, with the metadata of those that come from GGUF files."""
    found = []
    folders = configs()
    for files in [folders[0], folders[-1], ggufs()[0], ggufs()[-1]]:
        with TemporaryDirectory() as name:
            folder = Path(name, "model")
            folder.mkdir()
            for file, content in files.items():
                (folder / file).write_bytes(content)
            source = folder / "model.gguf"
            with open_checkpoint(source if source.exists() else folder) as checkpoint:
                pack(checkpoint, Path(name, "packed"))
            found.append(_packed_parts(Path(name, "packed")))
    return found


def _packed_parts(path: Path) -> Files:
    header = packed_file.read_header(path)
    weights = {"bytes": header.weights_bytes, "pieces": header.pieces}
    members = {name: packed_file.read_member(path, header, name) for name in header.members}
    said = {"about": header.about, "weights": weights, "members": {name: None for name in members}}
    return {"header.json": json.dumps(said).encode(), **{f"{name}.json": data for name, data in members.items()}}


def write_packed(path: Path, header: bytes, members: Files) -> None:
    """A packed file of a header, in which members without a place get theirs, and its checksum."""
    end = packed_file.WEIGHTS_AT + _WEIGHTS
    with path.open("wb") as file:
        file.truncate(end)
        try:
            said = json.loads(header)
            for name, content in members.items():
                if said["members"].get(name, "") is None:
                    said["members"][name] = [end, len(content), hashlib.sha256(content).hexdigest()]
                    file.seek(end)
                    end += file.write(content)
            header = json.dumps(said).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # it stays as it is
        digest = hashlib.sha256(header).digest()
        begin = struct.pack("<8sQQQ32s", packed_file.MAGIC, packed_file.LAYOUT, end, len(header), digest)
        file.seek(end)
        file.write(header)
        file.seek(0)
        file.write(begin)


def _add_tokens(writer: gguf.GGUFWriter, kind: str) -> None:
    types = [gguf.TokenType.NORMAL] * len(_TOKENS)
    types[:4] = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 3]
    types[_TOKENS.index("<0x0A>")], types[-1] = gguf.TokenType.BYTE, gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model(kind)
    writer.add_token_list(_TOKENS)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)
    if kind == "llama":
        writer.add_token_scores([-float(number) for number in range(len(_TOKENS))])
    else:
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_merges(["a b", "ab c", "Ġ a"])


def templates() -> list[Files]:
    """A template and a conversation each."""
    return [
        {
            "chat_template.jinja": text.encode(),
            "conversation.json": json.dumps(_CONVERSATIONS[chosen]).encode(),
        }
        for text, chosen in _TEMPLATES
    ]
