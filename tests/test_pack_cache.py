"""The cache of packed models is bounded: what goes, in which order, and what stays."""

import fcntl
import gc
import os
import shutil
from types import SimpleNamespace

import pytest
import tiny

from ellm import LLM, pack_cache
from ellm.pack_cache import open_cached

OTHERS = 100 << 20  # bytes that other files take


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ellm" / "packed"


@pytest.fixture
def models(tmp_path):
    return [tiny.write_checkpoint(tmp_path / name, layers=1, seed=seed) for seed, name in enumerate("abcd")]


@pytest.fixture
def disk(folder, monkeypatch):
    """Sets how many bytes the cache may have until a tenth of the file system would be free no more."""

    def statvfs(path):
        taken = OTHERS + sum(file.stat().st_size for file in folder.iterdir())
        return SimpleNamespace(f_frsize=1, f_blocks=total, f_bavail=total - taken)

    def set_room(room):
        nonlocal total
        total = (OTHERS + room) * 10 // 9 + 10

    total = 0
    set_room(1 << 40)
    monkeypatch.setattr(os, "statvfs", statvfs)
    return set_room


def kept(folder):
    """The first letters of the names of models."""
    return "".join(sorted(path.name[0] for path in folder.glob("*.ellm")))


def cache(model, when):
    """Pack a model, if it is not there, and have it used at this time."""
    path = open_cached(model).packed.path
    os.utime(path, (when, when))
    return path


def source_bytes(model):
    return sum(size for _, size, _ in pack_cache.stamps(model))


def test_those_used_longest_ago_make_room(folder, models, disk, capsys):
    a, b, c, d = models
    sizes = [cache(model, when).stat().st_size for when, model in enumerate((a, b, c), 1000)]
    assert kept(folder) == "abc" and capsys.readouterr().err == ""
    cache(a, 2000)
    disk(sizes[0] + sizes[2] + source_bytes(d))
    cache(d, 3000)
    assert kept(folder) == "acd"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ellm: removed {folder}/b-") and line.endswith(
        " MB: it was used longest ago, and 10% of the disk are to stay free"
    )
    disk(0)
    cache(b, 4000)
    assert kept(folder) == "b", "what is asked for is kept, however little room there is"
    assert [line[len(f"ellm: removed {folder}/")] for line in capsys.readouterr().err.splitlines()] == ["c", "a", "d"]


def test_to_use_one_is_to_use_it_last(models, disk):
    path = cache(models[0], 1000)
    open_cached(models[0])
    assert path.stat().st_mtime > 1000


def test_those_of_models_that_are_gone_or_have_changed_go(folder, models, disk, capsys, monkeypatch, tmp_path):
    a, b, c, d = models
    monkeypatch.chdir(tmp_path)
    for model in (a.name, b, c):
        cache(model, 1000)
    monkeypatch.chdir("/")
    shutil.rmtree(b)
    (c / "config.json").write_text((c / "config.json").read_text() + " ")
    cache(d, 1000)
    assert kept(folder) == "ad"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.endswith(" MB: its model is gone or has changed") for line in lines)
    shutil.rmtree(a)
    assert open_cached(d).packed and kept(folder) == "ad", "nothing goes where nothing is written"


def test_what_this_ellm_cannot_read_goes(folder, models, disk):
    path = cache(models[0], 1000)
    path.write_bytes(path.read_bytes()[:-1])
    cache(models[1], 1000)
    assert kept(folder) == "b"


def test_what_is_in_use_stays(folder, models, disk):
    """It could not be mapped again by a server that sleeps, and to remove it gives nothing back."""
    a, b, c, _ = models
    with LLM(a, cache=True, threads=1) as llm:
        packed = open_cached(b)
        disk(0)
        shutil.rmtree(b)
        cache(c, 1000)
        assert kept(folder) == "abc"
        llm.runtime.unload()
        llm.runtime.reload()
    del llm, packed
    gc.collect()
    (c / "config.json").write_text((c / "config.json").read_text() + " ")
    cache(c, 1000)
    assert kept(folder) == "c"


def test_what_is_being_written_stays(folder, models, disk):
    cache(models[0], 1000)
    part = folder / ".ellm-part-0"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(part, (1000, 1000))
        disk(0)
        cache(models[1], 1000)
        assert part.exists() and kept(folder) == "b"
