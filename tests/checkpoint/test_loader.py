"""Packing: every byte where task.h puts it, home tiles, refusals before anything is read, and peak memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from ellm.checkpoint import loader, open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.kernels.errors import InputError

CORES = sorted(os.sched_getaffinity(0))[:2]


def matrix(name, sources, runs, k, n_tiles, task_tiles=2):
    k_tiles = -(-k // 32)
    sources = [{"name": source, "shape": shape} for source, shape in sources]
    return {
        "name": name, "layout": "tiles", "sources": sources, "runs": runs, "k": k, "k_tiles": k_tiles,
        "n_tiles": n_tiles, "task_tiles": task_tiles, "bytes": n_tiles * k_tiles * 1024,
    }  # fmt: skip


def floats(name, count, **rest):
    return {"name": name, "bytes": 4 * count, **rest}


def program(weights):
    """A stand-in that has what the loader reads: weights at 4096-aligned offsets."""
    offset = 0
    for weight in weights:
        weight["offset"] = offset
        offset += -(-weight["bytes"] // 4096) * 4096
    return SimpleNamespace(meta={"weights": weights}, weights_bytes=offset)


def packed(weight, tensors) -> np.ndarray:
    """[n_tiles][k_tiles] tiles as task.h defines them, made the slow way."""
    columns = np.zeros((16 * weight["n_tiles"], 32 * weight["k_tiles"]), np.uint16)
    for source, row, rows, column in weight["runs"]:
        columns[column : column + rows, : weight["k"]] = tensors[weight["sources"][source]["name"]][row : row + rows]
    tiles = columns.reshape(weight["n_tiles"], 16, weight["k_tiles"], 16, 2)  # n, column, k, pair, half
    return tiles.transpose(0, 2, 3, 1, 4).reshape(-1)


def load(program, checkpoint, cores, progress=None) -> np.ndarray:
    region = np.zeros(program.weights_bytes, np.uint8)
    load_weights(program, checkpoint, region.ctypes.data, cores, progress)
    return region


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
            "norm", 88, layout="vector", sources=[{"name": "model.norm.weight", "shape": [88]}], runs=[[0, 0, 88, 0]]
        ),
        floats(
            "bias", 256, layout="vector", runs=[[source, first, n, at] for source, first, n, at in QKV_RUNS],
            sources=[{"name": name.replace("weight", "bias"), "shape": [n]} for name, n in ((Q, 96), (K, 48), (V, 48))],
        ),
        floats("inv_freq", 12, layout="constant", values=[0.1 * i for i in range(12)]),
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
    monkeypatch.setattr(loader, "_BLOCK_ELEMENTS", block)
    everything = program(weights_of_every_layout())
    with open_checkpoint(folder) as checkpoint:
        region = load(everything, checkpoint, [CORES[i % len(CORES)] for i in range(workers)])
    for weight in everything.meta["weights"]:
        begin, size = weight["offset"], weight["bytes"]
        if weight["layout"] == "tiles":
            np.testing.assert_array_equal(region[begin : begin + size].view(np.uint16), packed(weight, tensors))
            continue
        expected = np.zeros(size // 4, np.float32)
        if weight["layout"] == "constant":
            expected[:] = weight["values"]
        for source, first, count, at in weight.get("runs", ()):
            bits = tensors[weight["sources"][source]["name"]]
            expected[at : at + count] = tiny.from_bf16(bits)[first : first + count]
        np.testing.assert_array_equal(region[begin : begin + size].view(np.float32), expected)


def test_each_worker_packs_its_home_tasks(folder):
    """Worker w of W owns tasks [n * w // W, n * (w + 1) // W), even if the last task has fewer tiles."""
    weight = matrix("embed", [("model.embed_tokens.weight", [331, 88])], [[0, 0, 331, 0]], 88, 21, 4)
    calls = []

    def read_rows(name, begin, end):
        calls.append((begin, end))
        return np.ones((end - begin, 88), np.uint16)

    checkpoint = SimpleNamespace(read_rows=read_rows)
    region = np.zeros(weight["bytes"], np.uint8)
    report, going = loader._Report(0, None), SimpleNamespace(is_set=lambda: False)
    owned = []
    for worker in range(4):
        calls.clear()
        loader._pack_home(weight | {"offset": 0}, checkpoint, region.ctypes.data, worker, 4, going, report)
        owned.append((calls[0][0], calls[-1][1]))
    assert owned == [(0, 64), (64, 192), (192, 256), (256, 331)]


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
    total = sum(weight["bytes"] for weight in everything.meta["weights"])
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


def test_unknown_dtype(tmp_path):
    from safetensors.numpy import save_file

    folder = tiny.write_checkpoint(tmp_path, layers=1)
    config = json.loads((folder / "config.json").read_text())
    weights = {name: np.zeros(shape, np.float32) for name, shape in tiny.shapes(config).items()}
    weights["lm_head.weight"] = np.zeros((331, 88), np.int8)
    save_file(weights, folder / "model.safetensors")
    head = matrix("head", [("lm_head.weight", [331, 88])], [[0, 0, 331, 0]], 88, 21)
    with (
        open_checkpoint(folder) as checkpoint,
        pytest.raises(InputError, match=r"lm_head.weight: dtype is I8, ellm reads F32"),
    ):
        load(program([head]), checkpoint, CORES)


def test_a_thread_that_fails_stops_the_others(tmp_path, monkeypatch):
    folder = tiny.write_checkpoint(tmp_path, layers=1, attention_bias=True)
    monkeypatch.setattr(loader, "_BLOCK_ELEMENTS", 16 * 88)
    with open_checkpoint(folder) as checkpoint:
        os.truncate(folder / "model.safetensors", checkpoint.tensors["model.embed_tokens.weight"].offset + 88 * 2 * 100)
        with pytest.raises(InputError, match=r"model.embed_tokens.weight: the file ends at byte"):
            load(program(weights_of_every_layout()), checkpoint, CORES)


PEAK = """
import json, mmap, sys, ctypes
sys.path.insert(0, {tests!r})
from types import SimpleNamespace
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights

weights = json.load(open({weights!r}))
size = weights[-1]["offset"] + weights[-1]["bytes"]
region = mmap.mmap(-1, size)
address = ctypes.addressof(ctypes.c_char.from_buffer(region))
with open_checkpoint({model!r}) as checkpoint:
    load_weights(SimpleNamespace(meta=dict(weights=weights)), checkpoint, address, {cores!r})
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, size)
"""


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_peak_memory(tmp_path, dtype):
    """Loading peaks below 1.3 times the packed size: nothing is mapped, and buffers are small whatever the tensor."""
    rows, k, count = 16384, 2048, 5
    folder = tiny.write_checkpoint(tmp_path, layers=1)
    data = np.random.default_rng(0).integers(0, 255, (rows, k * (2 if dtype == "BF16" else 4)), np.uint8)
    header = {
        f"w{i}": {"dtype": dtype, "shape": [rows, k], "data_offsets": [i * data.nbytes, (i + 1) * data.nbytes]}
        for i in range(count)
    }
    header["model.layers.0.x"] = {"dtype": dtype, "shape": [0], "data_offsets": [count * data.nbytes] * 2}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(data.data)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    tiny.write_json(folder / "config.json", config)
    everything = program(
        [matrix(f"w{i}", [(f"w{i}", [rows, k])], [[0, 0, rows, 0]], k, rows // 16) for i in range(count)]
    )
    tiny.write_json(tmp_path / "weights.json", everything.meta["weights"])
    script = PEAK.format(
        tests=str(Path(tiny.__file__).parent), weights=str(tmp_path / "weights.json"), model=str(folder), cores=CORES
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    peak, size = map(int, done.stdout.split())
    assert size > 300e6
    assert peak < 1.3 * size, f"peak {peak / 1e6:.0f} MB of {size / 1e6:.0f} MB packed"
