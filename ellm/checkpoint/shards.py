"""The tensors of a folder: in model.safetensors, or in shards with or without an index."""

from __future__ import annotations

import re
from pathlib import Path

from ellm.checkpoint import safetensors_file
from ellm.checkpoint.json_file import read_json
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError

_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_PICKLES = ("*.bin", "*.pth", "*.pt")


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a folder by name. Raises InputError if a file is missing, truncated or broken.

    As in transformers, model.safetensors comes before an index, which may be left from other shards, and
    consolidated.safetensors, the same weights under other names, is not looked at.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return safetensors_file.read_tensors(whole)
    if index.exists():
        return _read_indexed(index)
    names = [path.name for path in folder.iterdir()]
    numbers = {match[0]: (int(match[1]), int(match[2])) for match in map(_SHARD.fullmatch, names) if match}
    if numbers:
        return _read_numbered(folder, numbers)
    raise InputError(f"{folder}: has neither {whole.name} nor {index.name}{_instead(folder)}")


def _read_indexed(index: Path) -> dict[str, TensorInfo]:
    """Of what shards hold, the index's choice: a tensor may be in several."""
    folder = index.parent
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index}: weight_map is {type(weight_map).__name__}, must be an object")
    shards: dict[str, dict[str, TensorInfo]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise InputError(f"{index}: weight_map of {name!r} is {shard!r}, must be a safetensors file beside it")
        if shard not in shards:
            if not (folder / shard).exists():
                raise InputError(f"{index}: {shard} is named there (for {name!r}) but missing from the folder")
            shards[shard] = safetensors_file.read_tensors(folder / shard)
        if name not in shards[shard]:
            raise InputError(f"{index}: {name!r} should be in {shard!r}, which does not have it")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _read_numbered(folder: Path, numbers: dict[str, tuple[int, int]]) -> dict[str, TensorInfo]:
    """Shards without an index: all that their names count must be there, and no tensor in two of them."""
    first = min(numbers)
    count = numbers[first][1]
    other = next((name for name in sorted(numbers) if numbers[name][1] != count), None)
    if other:
        raise InputError(f"{folder}: {first} and {other} are of different sets, and there is no index")
    present = {number for number, _ in numbers.values()}
    missing = next((number for number in range(1, count + 1) if number not in present), None)
    if missing is not None:
        raise InputError(f"{folder}: has {first} but not model-{missing:05}-of-{count:05}.safetensors")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(numbers):
        for name, tensor in safetensors_file.read_tensors(folder / shard).items():
            if name in tensors:
                raise InputError(f"{folder}: {name} is in {tensors[name].path.name} and in {shard}, without an index")
            tensors[name] = tensor
    return tensors


def _instead(folder: Path) -> str:
    """What there is where weights should be, and what to do about it."""
    links = [path for path in folder.glob("model*.safetensors*") if path.is_symlink()]
    if links:
        return f"; {links[0].name} links to a file that is missing: the download is not complete"
    for pattern in _PICKLES:
        if found := sorted(folder.glob(pattern)):
            return f"; {found[0].name} is a pickle, which can run code: save the model as safetensors with transformers"
    if found := sorted(folder.glob("*.safetensors")):
        return f"; {found[0].name} is not in the layout of Hugging Face"
    return ""
