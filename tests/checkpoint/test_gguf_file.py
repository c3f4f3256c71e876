"""GGUF headers: equal to the gguf package's reading of sound files, and one line for every damaged one."""

import struct

import gguf
import numpy as np
import pytest
import tiny
import tiny_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ellm.checkpoint import aliases, open_checkpoint
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.system.errors import InputError

SMOLLM2 = aliases.path_of(aliases.DEFAULT)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = tiny.make_config(vocab=268, layers=1, hidden_size=64, head_dim=16, intermediate_size=64)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf.write_gguf(path, config, tiny_gguf.random_floats(config), gguf.GGMLQuantizationType.Q8_0)
    return path.read_bytes()


def outcome(path, content: bytes):
    """The checkpoint's tensors, or None if it is refused; anything else than InputError fails the test."""
    path.write_bytes(content)
    try:
        with open_checkpoint(path) as checkpoint:
            checkpoint.tokenizer  # noqa: B018
            return checkpoint.tensors
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


def test_same_reading_as_the_package():
    reader = gguf.GGUFReader(SMOLLM2)
    file = GGUFFile(SMOLLM2)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert file.metadata.keys() == fields.keys()
    for key in fields:
        assert file.metadata[key] == fields[key].contents(), key
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = file.tensors[tensor.name]
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (ours.dtype, ours.offset) == (tensor.tensor_type.name, tensor.data_offset)
        assert ours.row_bytes * ours.shape[0] == tensor.n_bytes


def test_truncation_anywhere(tmp_path, model):
    data_begin = min(tensor.offset for tensor in GGUFFile(write(tmp_path / "whole.gguf", model)).tensors.values())
    points = [*range(0, 64), *range(64, data_begin, 97), data_begin - 1, data_begin, len(model) // 2, len(model) - 32]
    for point in points:
        assert outcome(tmp_path / "x.gguf", model[:point]) is None, point
    assert outcome(tmp_path / "x.gguf", model) is not None


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("count", [0xFFFF, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("place", [8, 16, 24])  # tensor count, field count, length of the first key
def test_lying_counts(tmp_path, model, place, count):
    lying = bytearray(model)
    struct.pack_into("<Q", lying, place, count)
    assert outcome(tmp_path / "x.gguf", bytes(lying)) is None


def test_lying_array_length(tmp_path, model):
    """The length of the token list, in front of its strings, is made larger than the file."""
    place = model.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    lying = bytearray(model)
    struct.pack_into("<Q", lying, place, 2**40)
    with pytest.raises(InputError, match=r"length of tokenizer.ggml.tokens is 1099511627776, the file has room for"):
        GGUFFile(write(tmp_path / "x.gguf", bytes(lying)))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"GG", "header ends"),
        (b"GGML" + bytes(60), "begins with b'GGML'"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "is big-endian, ellm reads little-endian GGUF files"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(60), "version is 4, ellm reads GGUF versions 2 and 3"),
    ],
)
def test_not_a_gguf(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        GGUFFile(write(tmp_path / "x.gguf", content))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers(tmp_path, model, data):
    """Whatever bits flip in the header, the file is refused or every tensor still lies within it."""
    damaged = bytearray(model)
    header = model.index(b"output_norm.weight") + 200
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    for tensor in (outcome(tmp_path / "x.gguf", bytes(damaged)) or {}).values():
        assert tensor.offset + tensor.shape[0] * tensor.row_bytes <= len(damaged)


def test_header_reading_allocates_little(tmp_path, model):
    """A string whose length lies by less than the file size is read, but never more than the file has."""
    import tracemalloc

    lying = bytearray(model)
    struct.pack_into("<Q", lying, 24, 2**24)
    tracemalloc.start()
    assert outcome(tmp_path / "x.gguf", bytes(lying)) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(model) + (8 << 20)


def place_of_offset(data: bytes, tensor: str) -> int:
    """Where the header has the offset of a matrix: behind the name, the number of dims, two dims and the type."""
    return data.index(tensor.encode()) + len(tensor) + 4 + 16 + 4


def test_a_tensor_within_another(tmp_path, model):
    lying = bytearray(model)
    first, second = (place_of_offset(model, f"blk.0.attn_{part}.weight") for part in "kq")
    lying[first : first + 8] = (struct.unpack_from("<Q", model, second)[0] + 32).to_bytes(8, "little")
    words = r"attn_q.weight ends at byte \d+, within blk.0.attn_k.weight, which begins at byte \d+$"
    with pytest.raises(InputError, match=words):
        GGUFFile(write(tmp_path / "x.gguf", bytes(lying)))


def test_an_offset_that_is_not_aligned(tmp_path, model):
    lying = bytearray(model)
    lying[place_of_offset(model, "blk.0.attn_k.weight")] += 8
    with pytest.raises(InputError, match=r"blk.0.attn_k.weight is \d+, must be a multiple of general.alignment 32"):
        GGUFFile(write(tmp_path / "x.gguf", bytes(lying)))


def test_a_truncated_file_is_called_so(tmp_path, model):
    words = f"is truncated: it has {len(model) - 100} bytes, its tensors end at byte "
    with pytest.raises(InputError, match=words):
        GGUFFile(write(tmp_path / "x.gguf", model[:-100]))
    with pytest.raises(InputError, match="is truncated: the header ends at byte 500, within"):
        GGUFFile(write(tmp_path / "x.gguf", model[:500]))


def test_a_big_endian_file_of_the_package(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"x.gguf: is big-endian"):
        GGUFFile(tmp_path / "x.gguf")


def test_empty_tensor(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((0, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"dimensions of tensor token_embd.weight are \[0, 32\], must be at least 1"):
        GGUFFile(tmp_path / "x.gguf")
