"""Sessions on disk: found after a restart with the bits of a cold start, and never trusted."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams
from ellm.serving import session_files
from ellm.serving.session_files import SUFFIX

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
TOKENS = np.random.default_rng(0).integers(3, 250, 1300).tolist()
MODELS = {
    "qwen3": ({"architecture": "Qwen3ForCausalLM"}, {}),
    "int8": ({"architecture": "Qwen3ForCausalLM", "head_dim": 32}, {"kv": "int8"}),
    "mla": ({"architecture": "DeepseekV3ForCausalLM"}, {}),
    "windows": ({"architecture": "GptOssForCausalLM", "sliding_window": 64}, {}),
}
PROMPTS = [TOKENS, [*TOKENS[:700], 9], TOKENS[:1024], TOKENS[:100]]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """A folder, and options of the LLM."""
    config, options = MODELS[request.param]
    folder = write_checkpoint(tmp_path_factory.mktemp("model") / "m", **config, max_position_embeddings=2048)
    return folder, {"context": 2048, "chunk": 256, **options}


def answers(llm, prompts):
    found = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
    return [(one.token_ids, one.logprobs) for one in found], [one.metrics.cached_tokens for one in found]


def files(folder):
    return sorted(folder.glob(f"*{SUFFIX}"))


@pytest.fixture(scope="module")
def cold(model):
    folder, options = model
    with LLM(folder, cache_bytes=0, **options) as llm:
        return answers(llm, PROMPTS)[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_restored_is_cold(model, cold, tmp_path, threads):
    folder, options = model
    with LLM(folder, sessions=tmp_path, threads=threads, **options) as llm:
        first, spared = answers(llm, PROMPTS[:1])
        assert spared == [0]
    assert len(files(tmp_path)) == 3 and all(file.stat().st_mode & 0o777 == 0o600 for file in files(tmp_path))
    on = [*TOKENS, *first[0][0], 5]
    with LLM(folder, sessions=tmp_path, **options) as llm, LLM(folder, cache_bytes=0, **options) as plain:
        again, spared = answers(llm, [on])
        assert spared == [1305] and again == answers(plain, [on])[0]
    with LLM(folder, sessions=tmp_path, **options) as llm:
        assert answers(llm, PROMPTS[1:2]) == (cold[1:2], [672]), "a part of a block that was read"
        found, spared = answers(llm, PROMPTS)
        assert found == cold and spared == [1280, 672, 992, 96]
        together = llm.generate(PROMPTS, GREEDY)
        assert [(one.token_ids, one.logprobs) for one in together] == cold


def test_other_salts_and_models_find_nothing(model, tmp_path):
    folder, options = model
    with LLM(folder, sessions=tmp_path, **options) as llm:
        list(llm.stream(TOKENS, GREEDY, salt=b"one"))
    for salt, spared in ((b"", 0), (b"two", 0), (b"one", 1280)):
        with LLM(folder, sessions=tmp_path, **options) as llm:
            stream = llm.stream(TOKENS, GREEDY, salt=salt)
            list(stream)
            assert stream.output.metrics.cached_tokens == spared
    with LLM(folder, sessions=tmp_path, **{**options, "dtype": "q8"}) as llm:
        assert answers(llm, PROMPTS[:1])[1] == [0]


@pytest.fixture(scope="module")
def kept(checkpoint, tmp_path_factory):
    """A folder with the blocks of a sequence."""
    folder = tmp_path_factory.mktemp("sessions")
    with LLM(checkpoint, sessions=folder) as llm:
        llm.generate([TOKENS[:900]], GREEDY)
    return folder


@pytest.fixture
def copied(kept, tmp_path):
    for file in files(kept):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("where", ["magic", "header", "tokens", "block", "end"])
def test_what_is_damaged_is_ignored_with_a_line(checkpoint, copied, capsys, where):
    for file in files(copied):
        content = bytearray(file.read_bytes())
        at = {"magic": 0, "header": 60, "tokens": content.index(b"\n", 60) + 9, "block": -9, "end": -1}[where]
        content[at] ^= 1
        file.write_bytes(content[:at] if where == "end" else content)
    with LLM(checkpoint, sessions=copied) as llm, LLM(checkpoint, cache_bytes=0) as plain:
        assert answers(llm, [TOKENS[:900]])[1] == [0]
        assert answers(llm, [TOKENS[:700]])[0] == answers(plain, [TOKENS[:700]])[0]
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert lines and all(line.startswith("ellm: ") and SUFFIX in line and "ignored" in line for line in lines)


@pytest.mark.parametrize("content", [b"", b"x", b"ellm-kv\n", b"ellm-kv\n" + b"\xff" * 40, b"\0" * 5000])
def test_a_foreign_file_is_ignored_with_a_line(checkpoint, copied, capsys, content):
    (copied / f"0{SUFFIX}").write_bytes(content)
    (copied / "letter.txt").write_text("mine")
    with LLM(checkpoint, sessions=copied) as llm:
        assert answers(llm, [TOKENS[:900]])[1] == [896]
    assert len([line for line in capsys.readouterr().err.splitlines() if line]) == 1
    assert (copied / "letter.txt").read_text() == "mine"


def test_what_is_no_file_is_ignored_with_a_line(checkpoint, copied, capsys):
    os.mkfifo(copied / f"fifo{SUFFIX}")
    (copied / f"folder{SUFFIX}").mkdir()
    (copied / f"link{SUFFIX}").symlink_to("/dev/zero")
    with LLM(checkpoint, sessions=copied) as llm:
        assert answers(llm, [TOKENS[:900]])[1] == [896]
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 3 and all("is no file; it is ignored" in line for line in lines)


def test_a_header_that_is_too_deep_is_ignored_with_a_line(checkpoint, copied, capsys):
    header = b"[" * 100_000 + b"\n"
    preamble = struct.pack("<8sQ32s", b"ellm-kv\n", len(header), hashlib.blake2b(header, digest_size=32).digest())
    (copied / f"deep{SUFFIX}").write_bytes(preamble + header)
    with LLM(checkpoint, sessions=copied) as llm:
        assert answers(llm, [TOKENS[:900]])[1] == [896]
    assert "deep.ellm-kv: its header is not one of ours; it is ignored" in capsys.readouterr().err


def test_files_of_another_model_are_ignored_with_one_line(checkpoint, copied, capsys):
    with LLM(checkpoint, sessions=copied, dtype="q8") as llm:
        assert answers(llm, [TOKENS[:900]])[1] == [0]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line == f"ellm: sessions: {copied}: 2 files are of another model, or made in another way; they are ignored"


def test_a_file_under_another_name_is_not_used(checkpoint, copied):
    first, second = files(copied)
    first.rename(copied / f"{'0' * 40}{SUFFIX}")
    second.write_bytes((copied / f"{'0' * 40}{SUFFIX}").read_bytes())
    with LLM(checkpoint, sessions=copied) as llm:
        assert answers(llm, [TOKENS[:900]])[1] == [0]


def test_no_more_than_the_limit_is_kept_and_the_oldest_go_first(checkpoint, tmp_path):
    with LLM(checkpoint, sessions=tmp_path) as llm:
        llm.generate([TOKENS[:600]], GREEDY)
    size = sum(file.stat().st_size for file in files(tmp_path))
    before = {file.name for file in files(tmp_path)}
    with LLM(checkpoint, sessions=tmp_path, sessions_bytes=int(1.7 * size)) as llm:
        for begin in range(1, 4):
            llm.generate([TOKENS[begin : begin + 600]], GREEDY)
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 1.7 * size
    assert not before & {file.name for file in files(tmp_path)} and files(tmp_path)


def test_a_full_disk_costs_the_file_alone(checkpoint, tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with LLM(checkpoint, sessions=tmp_path) as llm, LLM(checkpoint, cache_bytes=0) as plain:
        monkeypatch.setattr(session_files.os, "fsync", full)
        assert answers(llm, [TOKENS[:600]]) == (answers(plain, [TOKENS[:600]])[0], [0])
        llm.engine.room._cache._sessions.close()
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert "No space left on device" in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_refused(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"sessions: .*file: File exists"):
        LLM(checkpoint, sessions=tmp_path / "file")
    with pytest.raises(InputError, match=r"sessions: .*cache_bytes is 0"):
        LLM(checkpoint, sessions=tmp_path, cache_bytes=0)
    with pytest.raises(InputError, match="sessions_bytes must be at least 0, not -1"):
        LLM(checkpoint, sessions=tmp_path, sessions_bytes=-1)


SERVE = """
import sys
from ellm import LLM, SamplingParams
with LLM(sys.argv[1], sessions=sys.argv[2]) as llm:
    print("open", flush=True)
    for begin in range(60):
        (one,) = llm.generate([[*range(3, 203)] * 3 + [begin + 3]], SamplingParams(temperature=0, max_tokens=3))
        print(one.metrics.cached_tokens, *one.token_ids, flush=True)
"""


def test_kill_9_at_any_moment_loses_no_file(checkpoint, tmp_path):
    """What a killed process left is found by the next, or ignored; answers stay the same."""
    answered, spared = {}, []
    for turn in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(checkpoint), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "open\n"
        for line, begin in zip(child.stdout, range(turn * 3 + 2), strict=False):
            cached, *tokens = line.split()
            spared += [int(cached)] if begin == 0 else []
            assert answered.setdefault(begin, tokens) == tokens
        while not files(tmp_path):  # of the first block: parents are written before what follows
            time.sleep(0.01)
        time.sleep(0.01 * turn)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert spared[0] == 0 and all(cached >= 512 for cached in spared[1:])
    for file in files(tmp_path):
        session_files.read(file, {})  # raises if it is damaged


STEPS = st.lists(
    st.one_of(
        st.just("restart"),
        st.lists(st.tuples(st.sampled_from([40, 512, 600, 1024, 1100]), st.integers(0, 1)), min_size=1, max_size=3),
    ),
    max_size=6,
)


def test_restarts_and_shortages_change_no_bit(model, tmp_path, monkeypatch):
    """Whatever was computed, restored or evicted before; a batch after a restart finds what was left."""
    folder, options = model
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    alone, restored = {}, []
    with LLM(folder, cache_bytes=0, **options) as plain:

        @example(steps=[[(1100, 0)], "restart", [(1100, 0), (600, 1), (1024, 0)]], positions=4000)
        @settings(max_examples=4, deadline=None)
        @given(steps=STEPS, positions=st.integers(1500, 4000))
        def tell(steps, positions):
            sessions = tmp_path / str(len(list(tmp_path.iterdir())))
            llm = LLM(folder, sessions=sessions, **options)
            for step in steps:
                if step == "restart":
                    llm.close()
                    llm = LLM(folder, sessions=sessions, **options)
                    continue
                prompts = [[*TOKENS[:shared], *[9] * follows] for shared, follows in step]
                for prompt in prompts:
                    if tuple(prompt) not in alone:
                        alone[tuple(prompt)] = answers(plain, [prompt])[0][0]
                room = llm.engine.room

                def left(room=room):
                    return positions * room.position_bytes - room.statistics.held_bytes

                with monkeypatch.context() as patch:
                    patch.setattr("ellm.system.memory.available", left)
                    outputs = llm.generate(prompts, GREEDY)
                assert [(one.token_ids, one.logprobs) for one in outputs] == [alone[tuple(one)] for one in prompts]
                restored.append(sum(one.metrics.cached_tokens for one in outputs))
            llm.close()

        tell()
    assert sum(restored) > 1024
