"""Programs in files: any change of any byte is refused, and so is what another program might have written."""

import zipfile

import numpy as np
import pytest

from ellm.scheduler import archive, saved
from ellm.scheduler.probe_program import ProbeGroup, probe_program

CHANGED, NONE = "it was changed, as its checksum says", "it has no checksum at its end"


@pytest.fixture
def path(tmp_path):
    """A file with a small program."""
    saved.save(probe_program([ProbeGroup(1)]), tmp_path / "saved.npz")
    return tmp_path / "saved.npz"


def refused(path, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        saved.load(path)
    assert str(caught.value).startswith(f"{path}: not a saved program: {words}")


def test_any_flipped_byte_is_refused(path):
    whole = path.read_bytes()
    for place in (*range(0, len(whole), 41), *range(len(whole) - 100, len(whole))):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=f"{CHANGED}|{NONE}"):
            saved.load(path)


def test_added_or_missing_bytes_are_refused(path):
    whole = path.read_bytes()
    for changed, words in (
        (whole + b"\0", NONE),
        (whole + whole, CHANGED),
        (b"\0" + whole, CHANGED),
        (whole[1:], CHANGED),
        (whole[:-1], NONE),
        (whole[:99], NONE),
        (b"", NONE),
    ):
        path.write_bytes(changed)
        refused(path, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"color": np.zeros(1)}, "it has an unknown color"),
        ({"roots": None, "args": None}, "it lacks args, roots"),
        ({"roots": np.zeros(1)}, r"roots is float64 [1], must be int32 of 1 dimensions"),
        ({"args": np.zeros(4, np.uint8)}, r"args is uint8 [4], must be uint8 of 2 dimensions"),
        ({"groups": np.zeros(4, np.int32)}, r"groups is int32 [4], must be"),
        ({"json": np.frombuffer(b"[" * 100_000, np.uint8)}, "maximum recursion depth exceeded"),
        ({"json": np.frombuffer(b"\xff", np.uint8)}, "'utf-8' codec can't decode"),
        ({"json": np.frombuffer(b"[]", np.uint8)}, "it says something else than this version does"),
        ({"json": np.frombuffer(b"{}", np.uint8)}, "Program.__init__() missing"),
    ],
)
def test_arrays_of_something_else_are_refused(path, change, words):
    arrays = archive.read(path) | change
    archive.write(path, {name: array for name, array in arrays.items() if array is not None})
    refused(path, words)


@pytest.mark.parametrize(
    ("names", "content", "compression", "words"),
    [
        (["json.npy"], b"\0" * 1000, zipfile.ZIP_DEFLATED, "its arrays are compressed"),
        (["json.npy"], b"no array", zipfile.ZIP_STORED, "the magic string is not correct"),
        (["json.npy"], b"", zipfile.ZIP_STORED, "EOF: reading magic string"),
        (["json.npy", "json"], None, zipfile.ZIP_STORED, "two of its arrays have one name"),
        ([], None, zipfile.ZIP_STORED, "it lacks args, events"),
    ],
)
def test_archives_of_something_else_are_refused(path, tmp_path, names, content, compression, words):
    """With the right checksum."""
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, array.read_bytes() if content is None else content, compression)
    data = path.read_bytes()
    path.write_bytes(data + archive._checksum(data))
    refused(path, words)


def test_an_array_that_memory_has_no_room_for_is_refused(path, tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % (1 << 62)
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("json.npy", b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header)
    data = path.read_bytes()
    path.write_bytes(data + archive._checksum(data))
    refused(path, "it is no archive of arrays: Unable to allocate")


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npz: cannot be read: No such file or directory"):
        saved.load(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        saved.load(tmp_path)
