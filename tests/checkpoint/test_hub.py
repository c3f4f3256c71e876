"""Models by name, from a hub stand-in on loopback.

Each case is a process of its own: huggingface_hub reads its environment once, when it is imported.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest
import tiny
import tiny_gguf
from hub_stand_in import HubStandIn

OPEN = """
import sys
from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError
try:
    with open_checkpoint(sys.argv[1], progress=sys.argv[2] == "progress") as checkpoint:
        rows = checkpoint.read_rows("lm_head.weight", 0, 2)
        print(checkpoint.config["model_type"], rows.shape, checkpoint.tokenizer.vocab_size, *checkpoint.notes)
except InputError as error:
    print("refused:", error)
"""
OPENED = "qwen3 (2, 88) 267\n"


@pytest.fixture
def hub(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "served", "Qwen3ForCausalLM", shards=2)
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(b"not needed")
    with HubStandIn(folder, "tiny-org/tiny-model") as stand_in:
        yield stand_in


def environment_of(tmp_path, endpoint):
    ours = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
    clean = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HTTP", "ALL_"))}
    return clean | ours


def open_by_name(tmp_path, endpoint, name="tiny-org/tiny-model", progress=False, file_size=-1, **environment):
    command = [sys.executable, "-c", OPEN, name, "progress" if progress else "quiet"]
    return subprocess.run(
        command,
        env=environment_of(tmp_path, endpoint) | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size)),
    )


def test_download_then_cache_then_offline(tmp_path, hub):
    done = open_by_name(tmp_path, hub.endpoint)
    assert done.stdout == OPENED and done.stderr == ""
    asked = {Path(request).name for request in hub.requests if request.startswith("GET") and "/resolve/" in request}
    assert {"config.json", "tokenizer.json", "model-00001-of-00002.safetensors"} <= asked
    assert not asked & {"README.md", "pytorch_model.bin"}

    hub.requests.clear()
    assert open_by_name(tmp_path, hub.endpoint).stdout == OPENED
    assert not any("GET /tiny-org" in request for request in hub.requests)

    hub.requests.clear()
    assert open_by_name(tmp_path, hub.endpoint, HF_HUB_OFFLINE="1").stdout == OPENED
    assert hub.requests == []
    assert open_by_name(tmp_path, "http://127.0.0.1:9").stdout == OPENED  # nobody listens there


def test_progress_goes_to_stderr(tmp_path, hub):
    done = open_by_name(tmp_path, hub.endpoint, progress=True)
    assert done.stdout == OPENED
    assert "100%" in done.stderr


def refused(done) -> str:
    assert done.stdout.startswith("refused: tiny-org/") and done.stdout.count("\n") == 1, done
    assert "Traceback" not in done.stderr
    return done.stdout


def test_unknown_model(tmp_path, hub):
    assert "no such model on the hub" in refused(open_by_name(tmp_path, hub.endpoint, name="tiny-org/other"))


def test_offline_without_a_cached_snapshot(tmp_path, hub):
    message = refused(open_by_name(tmp_path, hub.endpoint, HF_HUB_OFFLINE="1"))
    assert "not in the local cache, and cannot be had from the hub" in message
    assert hub.requests == []


@pytest.fixture
def snapshots(tmp_path):
    """The folder of a model's snapshots in the cache."""
    folder = tmp_path / "home" / "hub" / "models--tiny-org--tiny-model" / "snapshots"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("main", [None, "5" * 40], ids=["no-refs", "refs-elsewhere"])
def test_a_snapshot_that_another_tool_left(tmp_path, snapshots, main):
    """Complete, but nothing in refs leads to it: found offline, and where nobody listens."""
    blobs = snapshots.parent / "blobs"
    served = tiny.write_checkpoint(blobs, "Qwen3ForCausalLM", shards=2)
    (snapshots / ("3" * 40)).mkdir()
    for file in served.iterdir():
        (snapshots / ("3" * 40) / file.name).symlink_to(f"../../blobs/{file.name}")
    if main:
        (snapshots.parent / "refs").mkdir()
        (snapshots.parent / "refs" / "main").write_text(main)
    assert open_by_name(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1").stdout == OPENED
    assert open_by_name(tmp_path, "http://127.0.0.1:9").stdout == OPENED


def test_the_complete_snapshot_is_taken(tmp_path, snapshots):
    """Of the newest one, which nothing in refs leads to, only the configuration was asked for."""
    tiny.write_checkpoint(snapshots / "old", "Qwen3ForCausalLM", shards=2)
    (snapshots / "new").mkdir()
    (snapshots / "new" / "config.json").write_text((snapshots / "old" / "config.json").read_text())
    assert open_by_name(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1").stdout == OPENED


def test_an_incomplete_snapshot(tmp_path, snapshots):
    tiny.write_checkpoint(snapshots / "only", "Qwen3ForCausalLM", shards=2)
    (snapshots / "only" / "model-00002-of-00002.safetensors").unlink()
    message = refused(open_by_name(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1"))
    assert "not complete in the local cache" in message and "model-00002-of-00002.safetensors" in message


def test_hub_out_of_reach(tmp_path):
    assert "cannot be had from the hub: [Errno 111]" in refused(open_by_name(tmp_path, "http://127.0.0.1:9"))


@pytest.mark.parametrize("status, words", [(403, "tiny-org/tiny-model: "), (500, "tiny-org/tiny-model: ")])
def test_failing_hub(tmp_path, hub, status, words):
    hub.status = status
    assert words in refused(open_by_name(tmp_path, hub.endpoint, HF_HUB_DOWNLOAD_TIMEOUT="2"))


def test_a_model_without_safetensors(tmp_path, hub):
    for file in hub.folder.glob("model*"):
        file.unlink()
    done = open_by_name(tmp_path, hub.endpoint)
    assert done.stdout.startswith("refused: ") and "has neither model.safetensors nor" in done.stdout


def test_a_disk_that_is_full(tmp_path, hub):
    done = open_by_name(tmp_path, hub.endpoint, file_size=20_000)
    words = f"tiny-org/tiny-model: download to {tmp_path}/home/hub failed: OSError: [Errno 27] File too large"
    assert words in refused(done)


def test_ctrl_c_does_not_wait_for_the_network(tmp_path, hub):
    hub.sending.clear()
    command = [sys.executable, "-m", "ellm.cli.main", "run", "tiny-org/tiny-model", "hi"]
    environment = environment_of(tmp_path, hub.endpoint)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not any("/resolve/" in request for request in hub.requests):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130
    assert not hub.sending.is_set()


@pytest.fixture
def gguf_hub(tmp_path):
    """A repository of GGUF files only: one quantisation whole, one in parts in a folder, and what is no model."""
    folder = tmp_path / "served"
    (folder / "BF16").mkdir(parents=True)
    sizes = dict(vocab=268, layers=1, hidden_size=64, head_dim=16, intermediate_size=64)
    config = tiny.make_config("Qwen3ForCausalLM", **sizes)
    weights = tiny_gguf.random_floats(config)
    tiny_gguf.write_gguf(folder / "tiny-Q8_0.gguf", config, weights, gguf.GGMLQuantizationType.Q8_0)
    bf16 = gguf.GGMLQuantizationType.BF16
    tiny_gguf.write_gguf(folder / "BF16" / "tiny-BF16.gguf", config, weights, bf16, most_tensors=7)
    (folder / "mmproj-tiny-F16.gguf").write_bytes(b"not a model")
    (folder / "README.md").write_text("not needed")
    with HubStandIn(folder, "tiny-org/tiny-GGUF") as stand_in:
        yield stand_in


def asked_for(hub) -> set[str]:
    return {Path(request).name for request in hub.requests if request.startswith("GET") and "/resolve/" in request}


def test_a_repository_of_gguf_files(tmp_path, gguf_hub):
    done = open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF:q8_0")
    assert done.stdout == "qwen3 (2, 64) 268\n" and done.stderr == ""
    assert asked_for(gguf_hub) == {"tiny-Q8_0.gguf"}

    gguf_hub.requests.clear()
    done = open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF:BF16")
    assert done.stdout == "qwen3 (2, 64) 268\n"
    assert asked_for(gguf_hub) == {"tiny-BF16-00001-of-00002.gguf", "tiny-BF16-00002-of-00002.gguf"}

    cached = open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF:BF16", HF_HUB_OFFLINE="1")
    assert cached.stdout == done.stdout
    (tmp_path / "home/hub/models--tiny-org--tiny-GGUF/refs/main").unlink()  # as another tool may leave it
    cached = open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF:BF16", HF_HUB_OFFLINE="1")
    assert cached.stdout == done.stdout


def test_one_of_several_gguf_files_is_taken_and_said(tmp_path, gguf_hub):
    done = open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF")
    assert done.stdout == (
        "qwen3 (2, 64) 268 tiny-org/tiny-GGUF: took BF16/tiny-BF16-00001-of-00002.gguf; others are named as in "
        "NAME:Q4_K_M: tiny-Q8_0.gguf\n"
    )
    assert done.stderr == ""


def test_a_quantisation_that_is_not_there(tmp_path, gguf_hub):
    message = refused(open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/tiny-GGUF:Q4_K_M"))
    assert "has no GGUF file of 'Q4_K_M', it has BF16/tiny-BF16-00001-of-00002.gguf, tiny-Q8_0.gguf" in message
    message = refused(open_by_name(tmp_path, gguf_hub.endpoint, "tiny-org/other:Q4_K_M"))
    assert "no such model on the hub" in message
