"""The file of a packed model: what is written comes back, and what is not as it was written is refused in one line."""

import hashlib
import json
import os
import re

import numpy as np
import pytest

from ellm.checkpoint import packed_file
from ellm.checkpoint.packed_file import LAYOUT, WEIGHTS_AT, read_header, read_member, verify, writing
from ellm.system.errors import InputError

SIZES = (1 << 20, 4096, 3 << 20)  # bytes of what is added one after the other


@pytest.fixture
def weights():
    random = np.random.default_rng(3)
    return [random.integers(0, 256, size, np.uint8) for size in SIZES]


@pytest.fixture
def path(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(packed_file, "PIECE", 1 << 19)
    path = tmp_path / "model"
    with writing(path) as writer:
        for part in weights:
            writer.add_weights(part)
        writer.add_member("one", b"first")
        writer.add_member("two", b"")
        writer.finish({"name": "x"})
    return path


def reason(work) -> str:
    with pytest.raises(InputError) as caught:
        work()
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def flip(path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def rewrite(path, change) -> None:
    """The same file with another header, whose checksum is right."""
    header = read_header(path)
    data = path.read_bytes()
    begin = packed_file._PREAMBLE.unpack(data[: packed_file._PREAMBLE.size])[2]
    said = json.loads(data[begin:])
    change(said)
    text = json.dumps(said).encode()
    preamble = packed_file._PREAMBLE.pack(packed_file.MAGIC, LAYOUT, begin, len(text), hashlib.sha256(text).digest())
    path.write_bytes(preamble + data[len(preamble) : begin] + text)
    assert header.digest != hashlib.sha256(text).hexdigest()


def test_what_is_written_comes_back(path, weights):
    header = verify(path)
    assert packed_file.is_packed(path)
    assert header.about == {"name": "x"} and header.weights_bytes == sum(SIZES)
    assert [length for _, length, _ in header.pieces] == [1 << 19] * 2 + [4096] + [1 << 19] * 6
    data = path.read_bytes()
    assert data[WEIGHTS_AT : WEIGHTS_AT + sum(SIZES)] == b"".join(part.tobytes() for part in weights)
    assert (read_member(path, header, "one"), read_member(path, header, "two")) == (b"first", b"")
    assert "it has no three" in reason(lambda: read_member(path, header, "three"))


def test_progress_counts_all_weights(path):
    steps = []
    verify(path, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (sum(SIZES), sum(SIZES)) and len(steps) == 9


def test_zeros_take_no_place_on_the_disk(tmp_path):
    zeros = np.zeros(64 << 20, np.uint8)
    zeros[-1] = 1
    with writing(tmp_path / "model") as writer:
        writer.add_weights(zeros)
        writer.finish({})
    assert verify(tmp_path / "model").weights_bytes == len(zeros)
    assert (tmp_path / "model").stat().st_blocks * 512 < 4 << 20


@pytest.mark.parametrize("length", [8, 30, 64, 5000, WEIGHTS_AT, -1])
def test_a_file_that_was_cut_short(path, length):
    os.truncate(path, length % path.stat().st_size)
    assert re.search(r"model: is (truncated: it has|damaged: it has) \d+ bytes", reason(lambda: read_header(path)))


def test_a_file_that_has_grown(path):
    with path.open("ab") as file:
        file.write(b"x")
    assert "is damaged: it has" in reason(lambda: read_header(path))


def test_every_byte_of_the_begin_and_of_the_header_counts(path):
    size = path.stat().st_size
    begin = packed_file._PREAMBLE.unpack(path.read_bytes()[: packed_file._PREAMBLE.size])[2]
    for place in (*range(64), *range(begin, size, 7)):
        flip(path, place)
        reason(lambda: read_header(path))
        flip(path, place)
    read_header(path)


def test_another_version_is_to_be_packed_again(path):
    flip(path, 8)
    assert reason(lambda: read_header(path)).endswith(
        f"was packed in layout {LAYOUT ^ 4}, this ellm has {LAYOUT}: pack it again"
    )


@pytest.mark.parametrize("place", [0, 1 << 19, (1 << 20) + 4095, sum(SIZES) - 1])
def test_a_flipped_bit_of_the_weights_is_found(path, place):
    flip(path, WEIGHTS_AT + place)
    read_header(path)
    found = re.search(r"is damaged: bytes (\d+) to (\d+), of its weights", reason(lambda: verify(path)))
    assert found and int(found[1]) <= WEIGHTS_AT + place < int(found[2])


def test_a_flipped_bit_of_a_member_is_found(path):
    header = read_header(path)
    flip(path, header.members["one"][0])
    assert reason(lambda: read_member(path, header, "one")).endswith("its one is not as it was written")
    assert "its one" in reason(lambda: verify(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("weights"),
        lambda said: said.update(about=[]),
        lambda said: said["weights"].update(bytes=1 << 60),
        lambda said: said["weights"].update(bytes=-1),
        lambda said: said["weights"].update(bytes="x"),
        lambda said: said["weights"].update(bytes=4096.0),
        lambda said: said["weights"]["pieces"].pop(),
        lambda said: said["weights"]["pieces"].append([sum(SIZES), 1 << 50, ""]),
        lambda said: said["weights"]["pieces"].__setitem__(0, [0, -1, ""]),
        lambda said: said["weights"].update(pieces=3),
        lambda said: said["members"].update(one=[0, 1 << 40, ""]),
        lambda said: said["members"].update(one=[WEIGHTS_AT, 1, ""]),
        lambda said: said["members"].update(one=[1 << 62, 1, ""]),
        lambda said: said["members"].update(one=None),
        lambda said: said.update(members=[]),
    ],
)
def test_a_header_that_does_not_fit_the_file(path, change):
    rewrite(path, change)
    assert "is damaged: its header: " in reason(lambda: read_header(path))


def test_what_is_interrupted_leaves_nothing(tmp_path, weights):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "model") as writer:
        writer.add_weights(weights[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_packed_file_is_replaced_when_the_new_one_is_whole(path, weights):
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), writing(path) as writer:
        writer.add_weights(weights[0])
        raise ZeroDivisionError
    assert path.read_bytes() == before
    with writing(path) as writer:
        writer.finish({})
    assert read_header(path).weights_bytes == 0


def test_what_is_no_packed_file_is_not_overwritten(tmp_path):
    (tmp_path / "letter").write_text("Dear")
    for name in ("letter", "nowhere/model", ""):
        reason(lambda name=name: packed_file.check_writable(str(tmp_path / name) if name else ""))
    assert "is there and no packed model" in reason(lambda: packed_file.check_writable(str(tmp_path / "letter")))
    assert not packed_file.is_packed(tmp_path) and not packed_file.is_packed(tmp_path / "letter")
