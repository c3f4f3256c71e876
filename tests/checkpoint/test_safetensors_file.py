"""Truncated and lying safetensors headers."""

import json

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ellm.checkpoint.safetensors_file import read_tensors
from ellm.system.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("model"), layers=1, vocab=267)
    return (folder / "model.safetensors").read_bytes()


def outcome(path, content: bytes):
    """The tensors, or None if the file is refused; anything else than InputError fails the test."""
    path.write_bytes(content)
    try:
        return read_tensors(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


def test_truncation(tmp_path, model):
    size = int.from_bytes(model[:8], "little")
    points = {0, 1, 7, 8, 9, 8 + size // 2, 8 + size - 1, 8 + size, 8 + size + 1, len(model) // 2, len(model) - 1}
    for point in points:
        assert outcome(tmp_path / "x.safetensors", model[:point]) is None, point
    assert outcome(tmp_path / "x.safetensors", model) is not None
    assert outcome(tmp_path / "x.safetensors", model + b"surplus") is None


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_lying_length(tmp_path, model, length):
    assert outcome(tmp_path / "x.safetensors", length.to_bytes(8, "little") + model[8:]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "Q99"},
        {"dtype": "F32"},
        {"shape": [1, 2, 3]},
        {"shape": [-1]},
        {"shape": [2**62, 2**62]},
        {"shape": "many"},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [10, 4]},
        {"data_offsets": [-8, 4]},
        {"data_offsets": None},
    ],
)
def test_lying_entry(tmp_path, model, change):
    size = int.from_bytes(model[:8], "little")
    header = json.loads(model[8 : 8 + size])
    header["model.norm.weight"] |= change
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + model[8 + size :]
    assert outcome(tmp_path / "x.safetensors", content) is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers(tmp_path, model, data):
    """Whatever bits flip in the header, the file is refused or every tensor still lies within it."""
    damaged = bytearray(model)
    size = int.from_bytes(model[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 8 + size - 1))] = data.draw(st.integers(0, 255))
    for tensor in (outcome(tmp_path / "x.safetensors", bytes(damaged)) or {}).values():
        rows = tensor.shape[0] if tensor.shape else 1
        assert tensor.offset >= 8 and tensor.offset + rows * tensor.row_bytes <= len(damaged)
