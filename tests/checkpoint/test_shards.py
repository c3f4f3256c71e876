"""Which files hold a folder's weights, and one line for whatever is wrong with them."""

import json
import shutil

import numpy as np
import pytest
import tiny

from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model", shards=2)


def refused(folder) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_whole_file_comes_before_an_index(folder, tmp_path):
    """As in transformers; the index is left from other shards, which are gone or older."""
    whole = tiny.write_checkpoint(tmp_path / "whole", seed=1) / "model.safetensors"
    for gone in (False, True):
        if gone:
            (folder / TWO).unlink()
        shutil.copy(whole, folder)
        with open_checkpoint(folder) as checkpoint:
            assert {tensor.path.name for tensor in checkpoint.tensors.values()} == {"model.safetensors"}


def test_other_layouts_beside_are_not_looked_at(folder):
    for name in ("consolidated.safetensors", "consolidated.00.pth", "pytorch_model.bin", "adapter_model.safetensors"):
        (folder / name).write_bytes(b"x")
    with open_checkpoint(folder) as checkpoint:
        assert {tensor.path.name for tensor in checkpoint.tensors.values()} == {ONE, TWO}


def test_shards_without_an_index(folder):
    with open_checkpoint(folder) as checkpoint:
        expected = dict(checkpoint.tensors)
    (folder / INDEX).unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensors == expected


def test_shards_without_an_index_that_are_not_a_set(folder):
    (folder / INDEX).unlink()
    shutil.copy(folder / ONE, folder / "model-00003-of-00007.safetensors")
    assert f"{ONE} and model-00003-of-00007.safetensors are of different sets" in refused(folder)
    (folder / ONE).unlink()
    (folder / TWO).unlink()
    assert "has model-00003-of-00007.safetensors but not model-00001-of-00007.safetensors" in refused(folder)


def test_a_tensor_in_two_shards(folder):
    """The index says which one is meant; without it nobody does."""
    config = json.loads((folder / "config.json").read_text())
    name = "model.norm.weight"
    place = json.loads((folder / INDEX).read_text())["weight_map"][name]
    other = {ONE: TWO, TWO: ONE}[place]
    weights = tiny.random_weights(config, 0)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    held = {key: bits for key, bits in weights.items() if places[key] == other}
    tiny.write_safetensors(folder / other, held | {name: np.zeros_like(weights[name])})
    with open_checkpoint(folder) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read_vector(name), tiny.from_bf16(weights[name]))
    (folder / INDEX).unlink()
    assert f"{name} is in {ONE} and in {TWO}, without an index" in refused(folder)


def test_missing_shard(folder):
    (folder / TWO).unlink()
    assert f"{INDEX}: {TWO} is named there" in refused(folder)
    (folder / TWO).symlink_to(folder / "gone")  # what an interrupted download leaves in the hub's cache
    assert f"{INDEX}: {TWO} is named there" in refused(folder)
    (folder / INDEX).unlink()
    (folder / TWO).unlink()
    assert f"has {ONE} but not {TWO}" in refused(folder)


def test_a_truncated_shard(folder):
    size = (folder / TWO).stat().st_size
    header = int.from_bytes((folder / TWO).read_bytes()[:8], "little") + 8
    for left in (size - 1, header + 1, header, header - 1, 8):
        with (folder / TWO).open("r+b") as file:
            file.truncate(left)
        needed = size if left >= header else header
        assert f"{TWO}: is truncated: it has {left} bytes, its header needs {needed}" in refused(folder)


@pytest.mark.parametrize(
    "beside, words",
    [
        (None, "has neither model.safetensors nor model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin is a pickle, which can run code: save the model as safetensors"),
        ("consolidated.00.pth", "consolidated.00.pth is a pickle"),
        ("consolidated.safetensors", "consolidated.safetensors is not in the layout of Hugging Face"),
    ],
)
def test_no_weights(folder, beside, words):
    for name in (INDEX, ONE, TWO):
        (folder / name).unlink()
    if beside:
        (folder / beside).write_bytes(b"x")
    assert words in refused(folder)


def test_a_link_to_a_file_that_is_missing(folder):
    for name in (INDEX, ONE, TWO):
        (folder / name).unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/gone")
    assert "model.safetensors links to a file that is missing: the download is not complete" in refused(folder)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "", "..", 3, None])
def test_index_must_stay_in_the_folder(folder, shard):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    assert f"weight_map of 'lm_head.weight' is {shard!r}" in refused(folder)


def test_index_names_a_tensor_that_its_shard_lacks(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.surplus.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    assert "model.surplus.weight" in refused(folder)
