"""Some hundred damaged inputs of each target, and those that once found a fault."""

from pathlib import Path

import pytest
from targets import TARGETS, Fuzzer, outcome

FOUND = sorted(path.parent for path in Path(__file__).parent.glob("found/*/*/OUTCOME"))
COUNT = 300


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_taken_or_refused_in_one_line(tmp_path, name, capfd):
    fuzzer = Fuzzer(TARGETS[name], seed=0)
    for _ in range(COUNT):
        files = fuzzer.next()
        fuzzer.learn(files, outcome(TARGETS[name], tmp_path, files))
    assert any(found.startswith("taken") for found in fuzzer.outcomes)
    assert sum(not found.startswith("taken") for found in fuzzer.outcomes) > 10
    assert not capfd.readouterr().err


@pytest.mark.parametrize("place", FOUND, ids=lambda place: f"{place.parent.name}-{place.name}")
def test_what_was_found(tmp_path, place, capfd):
    files = {path.name: path.read_bytes() for path in place.iterdir() if path.name != "OUTCOME"}
    found = outcome(TARGETS[place.parent.name], tmp_path, files)
    assert found == (place / "OUTCOME").read_text().rstrip("\n")
    assert not capfd.readouterr().err


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_taken(tmp_path, name):
    """Or else nothing that is changed in them would be read."""
    for files in TARGETS[name].seeds():
        assert outcome(TARGETS[name], tmp_path, files).startswith("taken")
