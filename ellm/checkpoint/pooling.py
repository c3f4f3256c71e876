"""How a checkpoint makes one vector of a text: as sentence-transformers saves it, or as GGUF says.

Checkpoint.config has it as `pooling`, in the form of StoredPooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ellm.checkpoint.json_file import read_json, read_json_list
from ellm.scheduler import plain
from ellm.system.errors import InputError, one_line

FIELD = "pooling"
FILES = ("modules.json", "1_Pooling/config.json")
_MODULES, _POOLING = FILES
_MODES = {  # of sentence-transformers, by the fields of its Pooling
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"lasttoken": "last"}  # of those that newer files name, what differs from ours
_GGUF = ("", "mean", "cls", "last", "rank")  # llama.cpp's numbers; the first: none


@dataclass(frozen=True)
class StoredPooling:
    """What is said of it.

    Attributes:
        kind: "last", "mean", or what ellm does not do; "": nothing is said.
        normalize: whether vectors have length 1.
        module: what else is computed of the vector, which ellm does not do; "": nothing.
    """

    kind: str = ""
    normalize: bool = True
    module: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> StoredPooling:
        """What a Checkpoint.config has; `source` is the file for messages. Raises InputError if it is broken."""
        try:
            return plain.read(cls, config.get(FIELD, {}), FIELD)
        except ValueError as error:
            raise InputError(f"{source}: {one_line(error)}") from error


def in_folder(folder: Path) -> dict[str, Any]:
    """What a folder's files add to its config. Raises InputError if one of them is broken."""
    if not (folder / _MODULES).exists():
        return {}
    kinds = []
    for module in read_json_list(folder / _MODULES):
        kind = module.get("type") if isinstance(module, Mapping) else None
        if not isinstance(kind, str):
            raise InputError(f"{folder / _MODULES}: {one_line(repr(module), 60)} is no module with a type")
        kinds.append(kind.rpartition(".")[2])
    others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    kind = _kind(folder / _POOLING) if "Pooling" in kinds else ""
    found = StoredPooling(kind, "Normalize" in kinds, ", ".join(others))
    return {FIELD: asdict(found)}


def in_gguf(number: int) -> dict[str, Any]:
    """What the pooling_type of a GGUF file adds to its config."""
    kind = _GGUF[number] if number < len(_GGUF) else f"pooling_type {number}"
    return {FIELD: asdict(StoredPooling(kind))} if kind else {}


def _kind(path: Path) -> str:
    said = read_json(path)
    named = said.get("pooling_mode")
    modes = [named] if isinstance(named, str) else [name for field, name in _MODES.items() if said.get(field) is True]
    return "+".join(_NAMES.get(mode, mode) for mode in modes)
