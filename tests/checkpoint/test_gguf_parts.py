"""Models split over several GGUF files by the gguf package's own writer."""

import re
import struct

import numpy as np
import pytest
import tiny
import tiny_gguf

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.gguf_parts import part_names, read_parts, stem
from ellm.system.errors import InputError

CONFIG = tiny.make_config("Qwen3ForCausalLM", vocab=268, layers=2, hidden_size=64, head_dim=16, intermediate_size=64)


@pytest.fixture
def parts(tmp_path):
    """The first of five parts; the whole model is beside it."""
    weights = tiny_gguf.random_floats(CONFIG)
    tiny_gguf.write_gguf(tmp_path / "whole.gguf", CONFIG, weights)
    first = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", CONFIG, weights, most_tensors=6)
    assert first.name == "tiny-00001-of-00005.gguf"
    return first


def test_the_first_part_opens_all(parts):
    with open_checkpoint(parts) as ours, open_checkpoint(parts.with_name("whole.gguf")) as whole:
        assert ours.config == whole.config
        assert ours.tensors.keys() == whole.tensors.keys()
        assert len({tensor.path for tensor in ours.tensors.values()}) == 5
        for name, tensor in whole.tensors.items():
            read = whole.read_vector if len(tensor.shape) == 1 else lambda one: whole.read_rows(one, 0, 9)
            same = ours.read_vector if len(tensor.shape) == 1 else lambda one: ours.read_rows(one, 0, 9)
            np.testing.assert_array_equal(same(name), read(name), name)
        assert ours.tokenizer.encode("the end") == whole.tokenizer.encode("the end")


def test_a_later_part_names_the_first(parts):
    with pytest.raises(InputError, match=r"-00003-of-00005.gguf: is part 3 of 5 .*: open the first, tiny-00001-of-0"):
        open_checkpoint(parts.with_name("tiny-00003-of-00005.gguf"))


def test_missing_parts_are_named(parts):
    for number in (2, 5):
        parts.with_name(f"tiny-0000{number}-of-00005.gguf").unlink()
    words = "2 of its 5 parts are missing beside it: tiny-00002-of-00005.gguf, tiny-00005-of-00005.gguf"
    with pytest.raises(InputError, match=words):
        open_checkpoint(parts)


def test_another_name_hides_the_other_parts(parts):
    renamed = parts.rename(parts.with_name("sha256-ab12"))
    with pytest.raises(InputError, match=r"sha256-ab12: is part 1 of 5 .* must be named NAME-00001-of-00005.gguf"):
        open_checkpoint(renamed)


def replaced(path, key: str, format: str, value: int) -> None:
    """Write another number behind a key of a file's metadata."""
    data = bytearray(path.read_bytes())
    struct.pack_into(format, data, data.index(key.encode()) + len(key) + 4, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "part, key, format, value, words",
    [
        (1, "split.tensors.count", "<i", 26, "split.tensors.count is 26, its 5 parts have 25 tensors"),
        (2, "split.no", "<H", 3, "split.no is 3 of 5, the name says 1 of 5, counted from 0"),
        (2, "split.count", "<H", 4, "split.no is 1 of 4, the name says 1 of 5, counted from 0"),
        (1, "split.no", "<H", 9, "split.no is 9, must be from 0 and below split.count 5"),
        (1, "split.count", "<H", 6, "is part 1 of 6 of a split model, so it must be named NAME-00001-of-00006.gguf"),
    ],
)
def test_parts_that_do_not_belong_together(parts, part, key, format, value, words):
    replaced(parts.with_name(f"tiny-0000{part}-of-00005.gguf"), key, format, value)
    with pytest.raises(InputError, match=re.escape(words)):
        read_parts(parts)


def test_a_part_that_is_there_twice(parts):
    second = parts.with_name("tiny-00002-of-00005.gguf")
    third = parts.with_name("tiny-00003-of-00005.gguf")
    third.write_bytes(second.read_bytes())
    replaced(third, "split.no", "<H", 2)
    with pytest.raises(InputError, match=r"-00003-of-00005.gguf: tensor blk.\S+ occurs twice, it is in .*-00002-of"):
        read_parts(parts)


def test_a_truncated_part_is_named(parts):
    fourth = parts.with_name("tiny-00004-of-00005.gguf")
    size = fourth.stat().st_size
    fourth.write_bytes(fourth.read_bytes()[: size - 64])
    words = rf"tiny-00004-of-00005.gguf: is truncated: it has {size - 64} bytes, its tensors end at byte \d+$"
    with pytest.raises(InputError, match=words):
        open_checkpoint(parts)


def test_names_of_parts():
    assert part_names("a-00002-of-00003.gguf") == [f"a-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert part_names("a-00002-of-00000.gguf") == ["a-00002-of-00000.gguf"]
    assert part_names("a.gguf") == ["a.gguf"]
    assert [stem(name) for name in ("a-00002-of-00003.gguf", "a.b.gguf", "sha256-1")] == ["a", "a.b", "sha256-1"]
