"""A model that is given back while nobody asks: the same bits after waking, one clear error where it cannot be had."""

import gc
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tiny import write_checkpoint
from until import until

from ellm import LLM, InputError, SamplingParams
from ellm.checkpoint import aliases, open_checkpoint
from ellm.pack import pack
from ellm.serving import runtime, session_files

IDLE = 0.05
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
TOKENS = np.random.default_rng(0).integers(3, 250, 1300).tolist()
PROMPTS = [TOKENS, [*TOKENS[:700], 9], TOKENS[:100]]
MODELS = {
    "qwen3": {"architecture": "Qwen3ForCausalLM"},
    "experts": {"architecture": "Qwen3MoeForCausalLM"},
    "windows": {"architecture": "GptOssForCausalLM", "sliding_window": 64},
}


def write(folder, packed=False, **config):
    made = write_checkpoint(folder, **MODELS["qwen3"] | config, max_position_embeddings=2048)
    return packed_file(made) if packed else made


def packed_file(folder):
    path = folder.with_name(folder.name + ".packed")
    with open_checkpoint(folder) as checkpoint:
        pack(checkpoint, path)
    return path


@pytest.fixture(scope="module", params=["folder", "packed"])
def model(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "m", request.param == "packed")


@pytest.fixture
def own(request, tmp_path):
    """A model that the test may damage: the file with its weights, and what opens it."""
    if request.param == "packed":
        path = write(tmp_path / "m", packed=True)
        return path, path
    folder = write(tmp_path / "m")
    return folder / "model.safetensors", folder


both = pytest.mark.parametrize("own", ["folder", "packed"], indirect=True)


def answers(llm, prompts=PROMPTS):
    found = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
    return [(one.token_ids, one.logprobs) for one in found], [one.metrics.cached_tokens for one in found]


def asleep(llm):
    until(lambda: llm.statistics().asleep)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_answers_have_the_same_bits_after_waking(tmp_path, name, packed):
    path = write(tmp_path / "m", packed, **MODELS[name])
    with LLM(path, cache_bytes=0) as llm:
        cold, logits, embedding = answers(llm)[0], llm.logits(TOKENS[:50]), llm.embed(TOKENS[:50])[0].embedding
    with LLM(path, idle=IDLE) as llm:
        for _ in range(2):
            found, spared = answers(llm, PROMPTS[:1])
            assert found == cold[:1] and spared == [0]
            asleep(llm)
            now = llm.statistics()
            assert now.prefix_bytes == 0 and llm.engine.room.ranges.held == 0
        assert np.array_equal(llm.logits(TOKENS[:50]), logits)
        asleep(llm)
        assert np.array_equal(llm.embed(TOKENS[:50])[0].embedding, embedding)
        asleep(llm)
        assert answers(llm)[0] == cold
        now = llm.statistics()
        assert now.wakes >= 3 and now.sleeps in (now.wakes, now.wakes + 1) and now.wake_seconds > 0


def test_what_was_kept_is_found_in_files_after_waking(model, tmp_path):
    with LLM(model, cache_bytes=0) as llm:
        cold = answers(llm)[0]
    with LLM(model, idle=IDLE, sessions=tmp_path) as llm:
        answers(llm)
        asleep(llm)
        assert llm.statistics().prefix_bytes == 0
        found, spared = answers(llm)
    assert found == cold and spared[0] > 1024 and spared[1] >= 672


def test_it_does_not_sleep_before_what_it_keeps_is_in_files(model, tmp_path, monkeypatch):
    writing, go, write = threading.Event(), threading.Event(), session_files.write

    def slow(*arguments):
        writing.set()
        assert go.wait(60)
        return write(*arguments)

    monkeypatch.setattr(session_files, "write", slow)
    with LLM(model, idle=IDLE, sessions=tmp_path) as llm:
        answers(llm, PROMPTS[:1])
        assert writing.wait(60)
        time.sleep(4 * IDLE)
        assert not llm.statistics().asleep
        go.set()
        asleep(llm)
        assert len(list(tmp_path.glob(f"*{session_files.SUFFIX}"))) == 3


def test_requests_that_come_as_it_falls_asleep_are_answered(model):
    failures = []

    def work(llm, number):
        try:
            for turn in range(12):
                assert answers(llm, PROMPTS[1:])[0] == cold
                time.sleep(IDLE * (0.9 + 0.02 * ((number + turn) % 12)))
        except BaseException as error:
            failures.append(error)

    with LLM(model, cache_bytes=0) as llm:
        cold = answers(llm, PROMPTS[1:])[0]
    with LLM(model, idle=IDLE) as llm:
        for count in (1, 2):
            threads = [threading.Thread(target=work, args=(llm, number)) for number in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []
        asleep(llm)
        assert llm.statistics().sleeps > 1


def test_many_requests_at_once_wake_it_once(model):
    with LLM(model, idle=IDLE) as llm:
        expected = [one.token_ids for one in llm.generate([[5, n] for n in range(40)], GREEDY)]
        asleep(llm)
        before = llm.statistics().wakes
        begin, found = threading.Barrier(40), {}

        def ask(number):
            begin.wait(60)
            with llm.stream([5, number], GREEDY) as stream:
                "".join(stream)
                found[number] = stream.output.token_ids

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[number] for number in range(40)] == expected
        assert llm.statistics().wakes > before


def test_logits_that_are_read_slowly_outlast_a_sleep(model):
    with LLM(model, idle=IDLE, chunk=64) as llm:
        whole = llm.logits(TOKENS[:200])
        steps = []
        for one in llm.logits_by_step(TOKENS[:200]):
            asleep(llm)
            steps.append(one)
        assert len(steps) > 2 and np.array_equal(np.concatenate(steps), whole)


@both
def test_files_that_are_gone_are_one_error_each_time_until_they_are_back(own, capfd):
    file, path = own
    with LLM(path, idle=IDLE) as llm:
        expected = answers(llm)[0]
        asleep(llm)
        file.rename(file.with_suffix(".away"))
        stream = llm.stream([5], GREEDY)
        for ask in (lambda: list(stream), lambda: answers(llm), lambda: llm.logits([5])):
            with pytest.raises(InputError, match=r"asleep and cannot be woken: .*: cannot be \w+: No such file"):
                ask()
            assert llm.statistics().asleep and llm.statistics().wakes == 0
        file.with_suffix(".away").rename(file)
        assert answers(llm)[0] == expected
    assert f"ellm: the model is asleep and cannot be woken: {file}" in capfd.readouterr().err


@both
def test_weights_of_another_model_are_never_taken(own, tmp_path):
    file, path = own
    other = write(tmp_path / "other", packed=file == path, seed=1)
    other = other if file == path else other / file.name
    size = file.stat().st_size
    with LLM(path, idle=IDLE) as llm:
        expected = answers(llm)[0]
        asleep(llm)
        file.rename(file.with_suffix(".away"))
        other.rename(file)
        said = (
            r"it has {0} bytes of .*, it had {0} bytes of "
            if file != path
            else r"SHA-256 \w{{64}} .*, it had \w{{64}} "
        )
        for _ in range(2):
            with pytest.raises(InputError, match=f"{file.name}: is not what it was: .*{said.format(size)}"):
                answers(llm)
        with file.open("r+b") as cut:
            cut.truncate(size // 2)
        with pytest.raises(InputError, match=rf"{file.name}: .*it has {size // 2} bytes"):
            answers(llm)
        file.with_suffix(".away").rename(file)
        assert answers(llm)[0] == expected


def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path, monkeypatch):
    path = write(tmp_path / "m")
    with LLM(path, idle=IDLE) as llm:
        asleep(llm)
        load = runtime.load_weights

        def changing(*arguments):
            load(*arguments)
            os.utime(path / "model.safetensors")

        monkeypatch.setattr(runtime, "load_weights", changing)
        with pytest.raises(InputError, match="is not what it was"):
            answers(llm)
        assert llm.statistics().asleep and not hasattr(llm.runtime, "weights")


def test_memory_that_others_have_taken_meanwhile_is_an_error(model, monkeypatch):
    with LLM(model, idle=IDLE) as llm:
        expected = answers(llm)[0]
        asleep(llm)
        with monkeypatch.context() as patch:
            patch.setattr("ellm.system.memory.available", lambda: 1000)
            with pytest.raises(InputError, match=r"cannot be woken: .*needs .* of memory in .*, 1\.0 kB are available"):
                answers(llm)
        assert answers(llm)[0] == expected


def test_it_is_closed_while_it_sleeps(model):
    llm = LLM(model, idle=IDLE)
    asleep(llm)
    llm.close()
    with pytest.raises(InputError, match="closed"):
        answers(llm)


def test_it_is_closed_while_it_wakes(tmp_path, monkeypatch):
    llm, waking, errors = LLM(write(tmp_path / "m"), idle=IDLE), threading.Event(), []
    asleep(llm)

    def endless(weights, checkpoint, address, placement, progress, spill):
        waking.set()
        while True:
            progress(0, 1)

    def ask():
        try:
            answers(llm)
        except InputError as error:
            errors.append(str(error))

    monkeypatch.setattr(runtime, "load_weights", endless)
    asking = threading.Thread(target=ask)
    asking.start()
    assert waking.wait(60)
    llm.close()
    asking.join(60)
    assert len(errors) == 1 and "this LLM is closed" in errors[0]


def test_one_that_nobody_has_any_more_ends_while_it_sleeps(model):
    llm = LLM(model, idle=IDLE)
    asleep(llm)
    (thread,) = [one for one in threading.enumerate() if one.name == "ellm-engine"]
    del llm
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("idle", [0, -1, float("nan"), float("inf"), 1e10, True, "5"])
def test_seconds_that_are_none(model, idle):
    with pytest.raises(InputError, match="idle must be a number of seconds above 0, at most 1000000000, not "):
        LLM(model, idle=idle)


MEASURE = """
import json, re, sys, time
from pathlib import Path
from ellm import LLM, SamplingParams

def kilobytes():
    text = Path("/proc/self/status").read_text()
    return {name: int(re.search(rf"^{name}:\\s+(\\d+)", text, re.M)[1]) for name in ("VmRSS", "RssAnon")}

def ask():
    return llm.generate([[1 + n % 999 for n in range(1500)]], SamplingParams(temperature=0, max_tokens=9))[0].token_ids

with LLM(sys.argv[1], idle=0.5) as llm:
    first, program = ask(), llm.runtime.program
    found = {"awake": kilobytes(), "weights": program.weights_bytes, "arena": program.arena_bytes}
    while not llm.statistics().asleep:
        time.sleep(0.01)
    found["asleep"] = kilobytes()
    assert ask() == first
    found["woken"] = kilobytes()
    print(json.dumps(found))
"""


@pytest.mark.parametrize("packed", [False, True], ids=["loaded", "packed"])
def test_what_is_given_back_is_the_systems_again(tmp_path, packed):
    path = aliases.path_of("smollm2")
    if packed:
        path, source = tmp_path / "smollm2.packed", path
        with open_checkpoint(source) as checkpoint:
            pack(checkpoint, path)
    run = [sys.executable, "-c", MEASURE, str(path)]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True, timeout=300).stdout)
    before, asleep, after = found["awake"], found["asleep"], found["woken"]
    mapped = found["weights"] if packed else 0
    assert 1024 * (before["VmRSS"] - asleep["VmRSS"]) > found["weights"] + found["arena"]
    assert 1024 * (before["RssAnon"] - asleep["RssAnon"]) > found["weights"] - mapped + found["arena"]
    assert after["VmRSS"] < 1.1 * before["VmRSS"]
