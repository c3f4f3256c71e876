"""Packing: every byte where task.h puts it, home tiles, refusals before anything is read, and peak memory."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from packed_weights import floats, load, matrix, program, source, write_checkpoint

from ellm.checkpoint import homes, loader, open_checkpoint, pieces
from ellm.system import memory
from ellm.system.errors import InputError

CORES = sorted(os.sched_getaffinity(0))[:2]


def packed(weight, tensors) -> np.ndarray:
    """[n_tiles][k_tiles] tiles as task.h defines them, made the slow way."""
    columns = np.zeros((16 * weight.n_tiles, 32 * weight.k_tiles), np.uint16)
    for number, row, rows, column in weight.runs:
        columns[column : column + rows, : weight.k] = tensors[weight.sources[number].name][row : row + rows]
    tiles = columns.reshape(weight.n_tiles, 16, weight.k_tiles, 16, 2)  # n, column, k, pair, half
    return tiles.transpose(0, 2, 3, 1, 4).reshape(-1)


LAYER = "model.layers.0"
Q, K, V = (f"{LAYER}.self_attn.{name}_proj.weight" for name in "qkv")
QKV_RUNS = [[0, 24 * h, 24, 32 * h] for h in range(4)] + [
    [1 + kv, 24 * h, 24, 128 + 64 * kv + 32 * h] for kv in range(2) for h in range(2)
]
GATE_UP_RUNS = [[source, 16 * i, min(16, 200 - 16 * i), 32 * i + 16 * source] for i in range(13) for source in range(2)]


def weights_of_every_layout():
    return [
        matrix("embed", [("model.embed_tokens.weight", [331, 88])], [[0, 0, 331, 0]], 88, 21, 4),
        matrix("qkv", [(Q, [96, 88]), (K, [48, 88]), (V, [48, 88])], QKV_RUNS, 88, 16, 4),
        matrix(
            "gate_up", [(f"{LAYER}.mlp.gate_proj.weight", [200, 88]), (f"{LAYER}.mlp.up_proj.weight", [200, 88])],
            GATE_UP_RUNS, 88, 26,
        ),
        matrix("down", [(f"{LAYER}.mlp.down_proj.weight", [88, 200])], [[0, 0, 88, 0]], 200, 6, 1),
        floats(
            "norm", 88, sources=(source("model.norm.weight", [88]),), runs=[[0, 0, 88, 0]]
        ),
        floats(
            "bias", 256, runs=QKV_RUNS,
            sources=tuple(source(name.replace("weight", "bias"), [n]) for name, n in ((Q, 96), (K, 48), (V, 48))),
        ),
        floats("inv_freq", 12, layout="constant", values=tuple(0.1 * i for i in range(12))),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_checkpoint(tmp_path_factory.mktemp("model"), shards=2, attention_bias=True, layers=1)


@pytest.fixture(scope="module")
def tensors(folder):
    return tiny.random_weights(json.loads((folder / "config.json").read_text()), 0)


@pytest.mark.parametrize("block", [1, 16 * 88, 5000, 1 << 20])
@pytest.mark.parametrize("workers", [1, 2, 3, 40])
def test_every_byte(folder, tensors, workers, block, monkeypatch):
    monkeypatch.setattr(pieces, "_BLOCK_BYTES", block)
    everything = program(weights_of_every_layout())
    with open_checkpoint(folder) as checkpoint:
        region = load(everything, checkpoint, [CORES[i % len(CORES)] for i in range(workers)])
    for weight in everything.weights:
        begin, size = weight.offset, weight.bytes
        if weight.layout == "tiles":
            np.testing.assert_array_equal(region[begin : begin + size].view(np.uint16), packed(weight, tensors))
            continue
        expected = np.zeros(size // 4, np.float32)
        if weight.layout == "constant":
            expected[:] = weight.values
        for number, first, count, at in weight.runs:
            bits = tensors[weight.sources[number].name]
            expected[at : at + count] = tiny.from_bf16(bits)[first : first + count]
        np.testing.assert_array_equal(region[begin : begin + size].view(np.float32), expected)


def home(weight, workers):
    return [list(homes.home(weight, worker, workers)) for worker in range(workers)]


def test_each_worker_packs_its_home_tasks():
    """Worker w of W owns tasks [n * w // W, n * (w + 1) // W), even if the last task has fewer tiles."""
    weight = matrix("embed", [("model.embed_tokens.weight", [331, 88])], [[0, 0, 331, 0]], 88, 21, 4)
    assert home(weight, 4) == [[(0, 0, 64)], [(0, 64, 192)], [(0, 192, 256)], [(0, 256, 336)]]


def test_home_tasks_of_banks():
    """Of experts, every worker has its share of each; of heads in one group, whole ones and parts of two at most."""
    weight = matrix("bank", [("w", [3, 80, 88])], [[0, 0, 80, 0]], 88, 5, experts=3)
    assert home(weight, 2) == [[(i, 0, 32) for i in range(3)], [(i, 32, 80) for i in range(3)]]
    assert home(weight, 5)[0] == []
    heads = replace(weight, one_group=True)
    assert home(heads, 2) == [[(0, 0, 80), (1, 0, 32)], [(1, 32, 80), (2, 0, 80)]]
    assert [len(share) for share in home(heads, 9)] == [1] * 9


def test_threads_are_pinned_and_the_caller_is_not(folder, monkeypatch):
    seen = set()
    before = os.sched_getaffinity(0)
    pack = loader._pack_home
    monkeypatch.setattr(loader, "_pack_home", lambda *a: (seen.add((a[3], *os.sched_getaffinity(0))), pack(*a)))
    with open_checkpoint(folder) as checkpoint:
        load(program(weights_of_every_layout()), checkpoint, CORES)
    assert seen == set(enumerate(CORES))
    assert os.sched_getaffinity(0) == before


def test_progress(folder):
    steps = []
    everything = program(weights_of_every_layout())
    with open_checkpoint(folder) as checkpoint:
        load(everything, checkpoint, CORES, lambda done, total: steps.append((done, total)))
    total = sum(weight.bytes for weight in everything.weights)
    assert steps == sorted(steps) and steps[-1] == (total, total) and len(steps) > 4


@pytest.mark.parametrize(
    "sources, words",
    [
        ([("model.nowhere.weight", [331, 88])], "tensor model.nowhere.weight is missing"),
        ([("lm_head.weight", [331, 96])], "lm_head.weight: shape is [331, 88], the configuration needs [331, 96]"),
        ([("lm_head.weight", [331])], "lm_head.weight: shape is [331, 88], the configuration needs [331]"),
    ],
)
def test_refusals(folder, sources, words):
    with open_checkpoint(folder) as checkpoint, pytest.raises(InputError) as caught:
        load(program([matrix("head", sources, [[0, 0, 331, 0]], 88, 21)]), checkpoint, CORES)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def test_a_thread_that_fails_stops_the_others(tmp_path, monkeypatch):
    folder = tiny.write_checkpoint(tmp_path, layers=1, attention_bias=True)
    monkeypatch.setattr(pieces, "_BLOCK_BYTES", 16 * 88)
    with open_checkpoint(folder) as checkpoint:
        os.truncate(folder / "model.safetensors", checkpoint.tensors["model.embed_tokens.weight"].offset + 88 * 2 * 100)
        with pytest.raises(InputError, match=r"model.embed_tokens.weight: the file ends at byte"):
            load(program(weights_of_every_layout()), checkpoint, CORES)


def cached(path: Path) -> float:
    """How much of a file is in the page cache."""
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * (-(-len(mapped) // page)))()
        start = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages) == 0
        del start
    return sum(page & 1 for page in pages) / len(pages)


@pytest.mark.parametrize("there, kept", [(1 << 40, True), (1 << 20, False)])
def test_files_that_do_not_fit_beside_the_weights_leave_the_page_cache(tmp_path, monkeypatch, there, kept):
    folder = write_checkpoint(tmp_path, {"w": ("BF16", np.ones((16384, 1024), np.uint16))})
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        file.read()
        os.fsync(file.fileno())
    assert cached(path) == 1
    monkeypatch.setattr(memory, "available", lambda: there)
    with open_checkpoint(folder) as checkpoint:
        load(program([matrix("w", [("w", [16384, 1024])], [[0, 0, 16384, 0]], 1024, 1024)]), checkpoint, CORES)
    assert (
        cached(path) == 1 if kept else cached(path) < 0.5
    )  # pages at the ends of what is read may be parts of larger ones


PEAK = """
import json, mmap, sys, ctypes
sys.path.insert(0, {tests!r})
from types import SimpleNamespace
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.scheduler import plain
from ellm.scheduler.contents import WeightEntry
from ellm.scheduler.placement import Placement

weights = plain.read(list[WeightEntry], json.load(open({weights!r})), "weights")
size = weights[-1].offset + weights[-1].bytes
region = mmap.mmap(-1, size)
address = ctypes.addressof(ctypes.c_char.from_buffer(region))
with open_checkpoint({model!r}) as checkpoint:
    load_weights(weights, checkpoint, address, Placement({cores!r}))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, size)
"""


@pytest.mark.parametrize(
    "dtype, count, format", [("BF16", 5, "bf16"), ("F32", 5, "bf16"), ("F8_E4M3", 10, "fp8"), ("U8", 20, "mxfp4")]
)
def test_peak_memory(tmp_path, dtype, count, format):
    """Loading peaks below 1.3 times the packed size: nothing is mapped, and buffers are small whatever the tensor."""
    rows, k = 16384, 2048
    shape = [rows, k // 32, 16] if dtype == "U8" else [rows, k]
    scale_shape = [rows, k // 32] if dtype == "U8" else [rows // 128, k // 128]
    size = 4 if dtype == "F32" else 2 if dtype == "BF16" else 1
    data = np.random.default_rng(0).integers(0, 127, np.prod(shape) * size, np.uint8)
    header = {
        f"w{i}": {"dtype": dtype, "shape": shape, "data_offsets": [i * data.nbytes, (i + 1) * data.nbytes]}
        for i in range(count)
    }
    scales = np.ones(scale_shape, np.uint8 if dtype == "U8" else np.float32)
    at = count * data.nbytes
    header["scales"] = {
        "dtype": "U8" if dtype == "U8" else "F32", "shape": scale_shape, "data_offsets": [at, at + scales.nbytes]
    }  # fmt: skip
    text = json.dumps(header).encode()
    folder = write_checkpoint(tmp_path, {})
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(data.data)
        file.write(scales.data)
    runs = [[0, 0, rows, 0]]
    everything = program(
        [
            matrix(f"w{i}", [source(f"w{i}", shape, ("scales", scale_shape))], runs, k, rows // 16, format=format)
            for i in range(count)
        ]
    )
    (tmp_path / "weights.json").write_text(json.dumps(everything.weights, default=vars))
    script = PEAK.format(
        tests=str(Path(tiny.__file__).parent), weights=str(tmp_path / "weights.json"), model=str(folder), cores=CORES
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    peak, size = map(int, done.stdout.split())
    assert size > 300e6
    assert peak < 1.3 * size, f"peak {peak / 1e6:.0f} MB of {size / 1e6:.0f} MB packed"
