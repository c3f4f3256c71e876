"""With prediction heads and without: the same answers, in fewer steps where the heads are right."""

import dataclasses
import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_gguf
from drafting import draft_always
from foreseen import write_foreseen
from gguf import GGMLQuantizationType

from ellm import LLM, InputError, SamplingParams
from ellm.checkpoint import open_checkpoint
from ellm.compiled import Options, Source, compile_model
from ellm.kernels.contract import SPLIT
from ellm.pack import pack
from ellm.serving import drafter, runtime

ARCHITECTURES = ["DeepseekV3ForCausalLM", "Glm4MoeForCausalLM"]
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
DRAWN = dataclasses.replace(GREEDY, temperature=0.8, seed=3)
RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(3, 331, length).tolist() for length in (5, 1, 40, 90, 7)]
LONG = RANDOM.integers(3, 331, SPLIT - 5).tolist()


def answers(outputs):
    return [(one.token_ids, one.logprobs, one.text, one.finish_reason) for one in outputs]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def random_heads(request, tmp_path_factory):
    return tiny.write_checkpoint(tmp_path_factory.mktemp("random"), request.param, num_nextn_predict_layers=1)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def right_heads(request, tmp_path_factory):
    return write_foreseen(tmp_path_factory.mktemp("right"), request.param)


def both(folder, prompts, params, **options):
    """Outputs by heads that draft whatever it costs; those without are the same."""
    with pytest.MonkeyPatch.context() as patch:
        draft_always(patch)
        with LLM(folder, speculate="mtp", **options) as ours, LLM(folder, speculate="off", **options) as theirs:
            found = ours.generate(prompts, params)
            assert answers(found) == answers(theirs.generate(prompts, params))
    return found


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_answers_are_those_without_heads(random_heads, params):
    found = both(random_heads, PROMPTS, params)
    assert sum(one.metrics.drafted_tokens for one in found) > 100


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_right_heads_save_steps(right_heads, params):
    found = both(right_heads, PROMPTS, params)
    for one in found:
        assert one.metrics.steps + one.metrics.accepted_tokens == 40 and one.metrics.accepted_tokens > 5
    if params is GREEDY:
        (alone,) = both(right_heads, PROMPTS[:1], params)
        assert (alone.metrics.steps, alone.metrics.accepted_tokens) == (8, 32), "1 by the prompt, 4 x 8, 4, 2, 1"


def test_drafts_end_at_the_edge_of_a_block_that_is_begun(right_heads):
    (found,) = both(right_heads, [LONG], GREEDY)
    assert found.metrics.accepted_tokens > 20


@pytest.mark.parametrize(
    "options",
    [{"chunk": 16}, {"cache_bytes": 0}, {"expanded_prefill": True}, {"kv": "int8"}, {"context": 700, "max_seqs": 2}],
    ids=str,
)
def test_right_heads_are_right_however_the_model_runs(options, tmp_path):
    architecture = ARCHITECTURES["kv" in options]
    folder = write_foreseen(tmp_path, architecture, **({"head_dim": 32} if "kv" in options else {}))
    found = both(folder, [*PROMPTS, LONG[:300]], GREEDY, **options)
    assert sum(one.metrics.accepted_tokens for one in found) > 40


def test_a_prefix_that_is_cached_has_what_heads_kept_of_it(random_heads, monkeypatch):
    """What is drafted behind it is what was drafted when nothing was cached."""
    draft_always(monkeypatch)
    drafted = []
    with LLM(random_heads, speculate="mtp") as llm:
        draft = llm.engine.drafter.draft

        def noted(sequences, counts):
            drafts = draft(sequences, counts)
            drafted.append([(one.length, some[0]) for one, some in zip(sequences, drafts, strict=True) if some])
            return drafts

        monkeypatch.setattr(llm.engine.drafter, "draft", noted)
        prompt, found = [*LONG, *PROMPTS[2]], []
        for _ in range(2):
            drafted.clear()
            (output,) = llm.generate([prompt], GREEDY)
            found.append((output.token_ids, [*drafted]))
    assert output.metrics.cached_tokens >= SPLIT
    assert found[0] == found[1]


def test_conversations_dropped_streams_and_many_answers(right_heads, monkeypatch):
    draft_always(monkeypatch)
    found = []
    for speculate in ("mtp", "off"):
        with LLM(right_heads, speculate=speculate, context=1024) as llm:
            prompt, seen = [*LONG], []
            for _ in range(3):
                (output,) = llm.generate([prompt], GREEDY)
                seen.append((output.token_ids, output.metrics.cached_tokens))
                prompt = [*prompt, *output.token_ids, 5, 6]
            with llm.stream(PROMPTS[2], GREEDY) as stream:
                next(stream)
            seen += answers(llm.generate([[*PROMPTS[2], 7]], GREEDY))
            seen += answers(llm.generate([PROMPTS[3]], dataclasses.replace(DRAWN, n=3)))
            (embedding,) = llm.embed([PROMPTS[3]])
            found.append((seen, embedding.embedding.tolist()))
    assert found[0] == found[1]


def test_a_sequence_that_gives_way_and_a_model_that_slept(right_heads, monkeypatch):
    draft_always(monkeypatch)
    with LLM(right_heads, speculate="off") as plain:
        wanted = answers(plain.generate(PROMPTS, GREEDY))
    with LLM(right_heads, speculate="mtp") as llm:
        step = llm.engine.step

        def interrupted(*given):
            step(*given)
            if len(llm.engine.running) > 1 and llm.engine.preemptions < 4:
                llm.engine._send_back(llm.engine.running[-1])

        monkeypatch.setattr(llm.engine, "step", interrupted)
        assert answers(llm.generate(PROMPTS, GREEDY)) == wanted and llm.engine.preemptions == 4
    with LLM(right_heads, speculate="mtp", idle=0.05) as llm:
        for _ in range(2):
            assert answers(llm.generate(PROMPTS, GREEDY)) == wanted
            while not llm.statistics().asleep:
                os.sched_yield()
            assert llm.runtime.drafter is None and llm.engine.drafter.executable is None


def test_sessions_on_disk(right_heads, monkeypatch, tmp_path):
    draft_always(monkeypatch)
    found = []
    for speculate in ("mtp", "mtp", "off"):
        with LLM(right_heads, speculate=speculate, sessions=tmp_path) as llm:
            (output,) = llm.generate([[*LONG, *PROMPTS[2]]], GREEDY)
            found.append((output.token_ids, output.metrics.cached_tokens))
    assert [tokens for tokens, _ in found] == [found[0][0]] * 3
    assert found[0][1] == found[2][1] == 0 and found[1][1] >= SPLIT


def test_seconds_of_steps_are_those_of_heads_too(right_heads, monkeypatch):
    """Prompts that heads are shown, drafts, and what they are shown when a sequence leaves: here each takes 1000."""
    draft_always(monkeypatch)
    clock = itertools.count(step=1000)
    monkeypatch.setattr(drafter, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    runs = []
    with LLM(right_heads, speculate="mtp") as llm:
        run = llm.engine.drafter._run
        monkeypatch.setattr(llm.engine.drafter, "_run", lambda *rest, **kinds: runs.append(0) or run(*rest, **kinds))
        llm.generate(PROMPTS, GREEDY)
        assert len(runs) > 20 and llm.statistics().step_seconds // 1000 == len(runs)


def test_auto_has_both_and_answers_are_the_same(right_heads):
    """As shipped: what is drafted follows what steps take, which is never the same."""
    with LLM(right_heads) as llm, LLM(right_heads, speculate="off") as plain:
        assert llm.speculation.reason == "lookup and prediction heads"
        for params in (GREEDY, DRAWN):
            assert answers(llm.generate(PROMPTS, params)) == answers(plain.generate(PROMPTS, params))


@pytest.mark.parametrize("speculate", ["off", "lookup"])
def test_heads_that_are_not_asked_for_are_not_loaded(random_heads, speculate):
    with LLM(random_heads, speculate=speculate) as llm, LLM(random_heads, speculate="mtp") as heads:
        assert llm.runtime.drafter is None and llm.engine.drafter is None
        sources = [source.name for weight in llm.runtime.program.weights for source in weight.sources]
        assert not any(".layers.2." in name for name in sources)
        assert any(name.startswith("model.layers.2.") for name in llm.runtime.ignored) and not heads.runtime.ignored
        assert llm.runtime.program.weights_bytes < heads.runtime.program.weights_bytes
        assert llm.runtime.program.position_bytes < heads.runtime.program.position_bytes
        (line,) = heads.runtime.compiled.heads(2)
        assert line.startswith("prediction heads: ") and llm.runtime.compiled.heads(2) == []


def test_their_memory_is_counted(random_heads, monkeypatch):
    """Where there is none for heads, auto goes without, and mtp says what is missing."""
    source = Source.of(open_checkpoint(random_heads))
    compiled = compile_model(source, Options(context=1024, drafter=True))
    heads = compiled.drafter
    assert heads.weights_bytes == compiled.program.weights_bytes and heads.caches == compiled.program.caches
    assert len(heads.caches) == 3 and heads.range_bytes == compiled.program.range_bytes
    check = runtime.check_room

    def full(programs, *rest):
        there = 0 if heads.op_names in [one.op_names for one in programs] else 1 << 40
        monkeypatch.setattr("ellm.system.memory.available", lambda: there)
        check(programs, *rest)

    monkeypatch.setattr(runtime, "check_room", full)
    with pytest.raises(InputError, match=r"needs .* of memory"):
        LLM(random_heads, speculate="mtp")
    with LLM(random_heads) as llm:
        assert llm.speculation.reason == "lookup"


def test_models_without_heads_refuse_them(tmp_path, checkpoint):
    bare = tiny.write_checkpoint(tmp_path / "bare", "DeepseekV3ForCausalLM", num_nextn_predict_layers=0)
    for folder in (checkpoint, bare):
        with pytest.raises(InputError, match=r"speculate: mtp: the model has no prediction heads \(num_nextn_predict"):
            LLM(folder, speculate="mtp")
    config = tiny.make_config("DeepseekV3ForCausalLM", num_nextn_predict_layers=1)
    tiny.write_json(bare / "config.json", config)
    with pytest.raises(InputError, match=r"predict_layers is not 0, but there is no tensor model.layers.2.eh_proj"):
        LLM(bare, speculate="mtp")
    with LLM(bare) as llm:
        assert llm.speculation.reason == "lookup"


def packed(source, **options):
    """The packed file of a model, beside it."""
    path = source.with_name("packed.ellm")
    with open_checkpoint(source) as opened:
        pack(opened, path, **options)
    return path


def drafted(name, monkeypatch, **options):
    """All that heads drafted for some prompts, and the outputs."""
    draft_always(monkeypatch)
    with LLM(name, speculate="mtp", **options) as llm:
        draft, found = llm.engine.drafter.draft, []
        monkeypatch.setattr(llm.engine.drafter, "draft", lambda *rest: found.append(draft(*rest)) or found[-1])
        outputs = llm.generate([[token % 268 for token in prompt] for prompt in PROMPTS], GREEDY)
    assert len(found) > 5
    return found, answers(outputs), [one.metrics.accepted_tokens for one in outputs]


@pytest.fixture
def home(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("right", [False, True])
def test_packed_files_hold_them(right, architecture, home, monkeypatch, tmp_path):
    """The same drafts as from the folder, of which as many are right; with --cache too, and when a program is kept."""
    if right:
        folder = write_foreseen(tmp_path / "model", architecture)
    else:
        folder = tiny.write_checkpoint(tmp_path / "model", architecture, num_nextn_predict_layers=1)
    found = drafted(folder, monkeypatch)
    assert (sum(found[2]) > 100) is right
    for name, options in ((packed(folder), {}), (packed(folder), {}), (folder, {"cache": True})):
        assert drafted(name, monkeypatch, **options) == found
    both(packed(folder), PROMPTS, DRAWN)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ({"dtype": "q8"}, {"dtype": "q8"}),
        ({"dtype": "bf12"}, {}),
        ({"expanded_prefill": True}, {"expanded_prefill": True}),
    ],
    ids=str,
)
def test_packed_heads_however_the_model_is_packed(stored, asked, home, monkeypatch, tmp_path):
    folder = write_foreseen(tmp_path / "model", "DeepseekV3ForCausalLM", hidden_size=256, intermediate_size=512)
    file = packed(folder, **stored)
    assert drafted(file, monkeypatch, **asked) == drafted(folder, monkeypatch, **stored)
    if "expanded_prefill" in stored:
        assert drafted(file, monkeypatch) == drafted(folder, monkeypatch)


@pytest.mark.parametrize("speculate", ["off", "lookup"])
def test_packed_heads_that_are_not_asked_for_are_not_loaded(speculate, random_heads, home):
    """They lie behind all else, so the program is that of the folder, and so is what is brought into memory."""
    with LLM(random_heads, speculate=speculate) as plain, LLM(packed(random_heads), speculate=speculate) as llm:
        assert llm.runtime.drafter is None and llm.engine.drafter is None
        assert llm.runtime.program.weights == plain.runtime.program.weights
        assert llm.runtime.program.weights_bytes < llm.runtime.weights.size
        assert llm.runtime.program.caches == plain.runtime.program.caches
        assert llm.runtime.ignored == plain.runtime.ignored
        assert answers(llm.generate(PROMPTS, DRAWN)) == answers(plain.generate(PROMPTS, DRAWN))


def test_packed_files_of_models_without_heads_say_why(home, tmp_path):
    bare = tiny.write_checkpoint(tmp_path / "bare", "Glm4MoeForCausalLM", num_nextn_predict_layers=0)
    with pytest.raises(
        InputError, match=r"packed\.ellm: speculate: mtp: the model has no prediction heads \(num_nextn_"
    ):
        LLM(packed(bare), speculate="mtp")
    tiny.write_json(bare / "config.json", tiny.make_config("Glm4MoeForCausalLM", num_nextn_predict_layers=1))
    with pytest.raises(InputError, match=r"packed\.ellm: speculate: mtp: .* there is no tensor model.layers.2.eh_proj"):
        LLM(packed(bare), speculate="mtp")
    with LLM(packed(bare)) as llm:
        assert llm.speculation.reason == "lookup"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_in_gguf_files(architecture, home, tmp_path, monkeypatch):
    """The same drafts as from the folder that the file was made of, and from its packed form."""
    sizes = dict(vocab=268, hidden_size=64, intermediate_size=96, num_nextn_predict_layers=1)
    if architecture == "Glm4MoeForCausalLM":
        sizes |= {"n_group": 1, "topk_group": 1, "attention_bias": False, "rms_norm_eps": 1e-5}
    config = tiny.make_config(architecture, **sizes)
    weights = tiny_gguf.random_floats(config)
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, GGMLQuantizationType.BF16)
    folder = tiny.write_checkpoint(tmp_path / "folder", architecture, **sizes)
    found = [drafted(name, monkeypatch) for name in (path, folder, packed(path))]
    drafts = [(asked, [tokens for tokens, *_ in outputs]) for asked, outputs, _ in found]
    assert drafts[0] == drafts[1] and found[0] == found[2]
