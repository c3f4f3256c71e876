"""A checkpoint in a folder: config.json, safetensors, tokenizer.json and the small files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from ellm.checkpoint import folder_tokenizer, pooling, shards
from ellm.checkpoint.chat_templates import read_templates
from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.json_file import read_json, read_json_if_any
from ellm.checkpoint.partners import join
from ellm.checkpoint.text_part import text_config, text_part
from ellm.system.errors import InputError
from ellm.text.end_of_turn import end_of_turn_ids
from ellm.text.token_ids import TokenIds
from ellm.text.tokenizer import Tokenizer

TOKENIZER_FILES = (  # what `build_tokenizer` reads
    *folder_tokenizer.FILES,
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
FILES = (  # what `open_folder` reads
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    *pooling.FILES,
    *TOKENIZER_FILES,
)


def has_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint in safetensors, complete or not."""
    return (folder / "config.json").exists() and any(folder.glob("model*.safetensors*"))


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder in the layout of Hugging Face. Raises InputError if a file is missing or broken."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: has no config.json, so it is not a checkpoint{_instead(folder)}")
    config = read_json(folder / "config.json")
    generation = read_json_if_any(folder / "generation_config.json")
    tensors = join(text_config(config), shards.read_tensors(folder))
    config, tensors = text_part(config, tensors)
    said = {name: value for name, value in config.items() if name != pooling.FIELD} | pooling.in_folder(folder)
    return Checkpoint(
        str(folder), said, generation, tensors, lambda: build_tokenizer(folder, config, generation, str(folder))
    )


def _instead(folder: Path) -> str:
    """What a folder without config.json may be."""
    if (folder / "adapter_config.json").exists():
        return " but an adapter: merge it into its base model (peft: merge_and_unload), and save that"
    if (folder / "params.json").exists():
        return " in the layout of Hugging Face; params.json is of the layout of its authors"
    return ""


def build_tokenizer(folder: Path, config: dict[str, Any], generation: dict[str, Any], source: str) -> Tokenizer:
    """The tokenizer whose files are in a folder, of a checkpoint; TokenIds if there are none.

    `config` is config.json, `generation` generation_config.json or empty, `source` the checkpoint, for messages. Raises
    InputError if a file is broken.
    """
    settings = read_json_if_any(folder / "tokenizer_config.json")
    built = folder_tokenizer.build(folder, config, settings)
    if built is None:
        return TokenIds(source, _eos_ids(folder, config, generation))
    backend, special = built
    eos_ids = [*_eos_ids(folder, config, generation), *_ends_of_turn(backend, generation)]
    templates = read_templates(folder, settings)
    return Tokenizer(backend, source=source, special_tokens=special, eos_ids=eos_ids, chat_templates=templates)


def _eos_ids(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> list[int]:
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(number, int) for number in ids):
        raise InputError(f"{folder}: eos_token_id is {value!r}, must be a token id or a list of them")
    return ids


def _ends_of_turn(backend: tokenizers.Tokenizer, generation: dict[str, Any]) -> list[int]:
    """What ends a turn by its name, where generation_config.json leaves that open.

    Llama 3 was released with one that lacks its own end of turn.
    """
    added = backend.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    ends = end_of_turn_ids({token.content: number for number, token in added.items()}, special)
    said = generation.get("eos_token_id") is not None
    return [number for number in ends if not said or added[number].content == "<|eot_id|>"]
