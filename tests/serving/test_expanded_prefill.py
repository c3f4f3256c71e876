"""Expanded prefill: as near to float32 as absorbed form, the same bits with any threads, and said what it gives up."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from logit_cases import EXPERTS_KL_SHARE, GOLDEN, KL_SHARE, LATENT, prompt
from measures import divergences
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.cli.main import main
from ellm.compiled import EXPANDED_ROWS, Options, Source, compile_model
from ellm.system.errors import InputError

LOGITS = Path(__file__).parents[1] / "golden" / "logits"
EXPANDABLE = [name for name in GOLDEN if name in LATENT]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module", params=EXPANDABLE)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp(name), **GOLDEN[name])


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("one"), **GOLDEN["deepseek-v2-groups"])


@pytest.fixture(scope="module")
def expanded(folder, name):
    with LLM(folder, expanded_prefill=True) as llm:
        return llm.logits(prompt(name).tolist())


def close(golden, logits: np.ndarray) -> None:
    """Hold logits to the bounds on KL of absorbed form; oracle/test_routes.py compares top-1, which in one prompt is
    decided by the few rows that rounding sends to other experts."""
    found = divergences(golden["truth"], logits[golden["positions"]])
    assert np.median(found) <= KL_SHARE * float(golden["peer_median"])
    assert found.mean() <= EXPERTS_KL_SHARE * float(golden["peer_kl"])


@pytest.mark.parametrize("chunk", [EXPANDED_ROWS, 300, 512])
def test_logits_are_within_the_bounds_of_absorbed_form(folder, name, expanded, chunk):
    """Also in chunks of which the last is absorbed, on a cache that expanded rows have written."""
    with LLM(folder, expanded_prefill=True, chunk=chunk) as llm:
        logits = llm.logits(prompt(name).tolist())
    close(np.load(LOGITS / f"{name}.npz"), logits)
    absorbed_from = len(logits) // chunk * chunk if len(logits) % chunk < EXPANDED_ROWS else len(logits)
    np.testing.assert_array_equal(logits[:absorbed_from], expanded[:absorbed_from])


def test_it_differs_from_absorbed_form_by_rounding_alone(folder, name, expanded):
    with LLM(folder) as llm:
        absorbed = llm.logits(prompt(name).tolist())
    assert not np.array_equal(absorbed, expanded)
    assert np.median(np.abs(absorbed - expanded)) < 0.05 * absorbed.std()


def test_logits_do_not_depend_on_the_threads(folder, name, expanded):
    with LLM(folder, expanded_prefill=True, threads=1) as llm:
        np.testing.assert_array_equal(llm.logits(prompt(name).tolist()), expanded)


def test_short_steps_are_those_of_absorbed_form(one_folder):
    tokens = prompt("deepseek-v2-groups").tolist()[: EXPANDED_ROWS - 1]
    with LLM(one_folder) as llm, LLM(one_folder, expanded_prefill=True) as other:
        np.testing.assert_array_equal(other.logits(tokens), llm.logits(tokens))


def test_long_and_short_prompts_together(one_folder):
    """Prompts longer than a chunk, of some and of few tokens, each as it is alone."""
    tokens = prompt("deepseek-v2-groups").tolist()
    prompts = [tokens[:500], tokens[:5], tokens[3:400], tokens[7:100], tokens[200:450]]
    with LLM(one_folder, expanded_prefill=True, chunk=256) as llm:
        alone = [llm.generate(one, GREEDY)[0].token_ids for one in prompts]
        together = [output.token_ids for output in llm.generate(prompts, GREEDY)]
    assert [len(one) for one in together] == [8] * len(prompts)
    assert together[1] == alone[1]
    assert together[3] == alone[3]


@pytest.mark.parametrize("chunk", [512, 256])
def test_pages_of_an_expansion_are_given_back(one_folder, chunk):
    """They read as zeros when the prompt is done, also by a short last step; what decoding reads stays."""
    tokens = prompt("deepseek-v2-groups").tolist()[:300]
    with LLM(one_folder, expanded_prefill=True, chunk=chunk) as llm:
        absorbed, expanding = llm.runtime.compiled.programs
        kept = absorbed.range_bytes
        seen = []

        def look():
            if not seen:
                (running,) = llm.engine.running
                llm.engine.room.ranges.settle()
                held, more = running.sequence.range, running.sequence.prompt_only_bytes
                seen.append((held, held.array[kept:].any() or more))

        list(llm.stream(tokens, GREEDY, notify=look))
        [(held, dirty)] = seen
        assert not dirty
        llm.engine.room.ranges.settle()
        assert held.array[:kept].any(), "others may go on from there"
        assert not held.array[kept:].any()
        assert len(held.array) - kept >= llm.context * expanding.prompt_position_bytes > 0


def test_both_programs_share_weights_and_caches(one_folder):
    source = Source(json.loads((one_folder / "config.json").read_text()))
    program, prefill = compile_model(source, Options(context=512, chunk=256, expanded_prefill=True)).programs
    alone = compile_model(source, Options(context=512, chunk=256)).program
    assert program.weights == prefill.weights
    assert program.weights_bytes == prefill.weights_bytes > alone.weights_bytes
    assert program.range_bytes == alone.range_bytes < prefill.range_bytes
    program.check()
    prefill.check()


def test_a_model_or_chunk_without_use_for_it_is_refused(one_folder, tmp_path):
    with pytest.raises(InputError, match=f"chunk 128: it takes steps of at least {EXPANDED_ROWS} rows"):
        LLM(one_folder, expanded_prefill=True, chunk=128)
    plain = write_checkpoint(tmp_path / "llama", "LlamaForCausalLM")
    with pytest.raises(InputError, match="llama has no latent attention"):
        LLM(plain, expanded_prefill=True)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--max-tokens", "2", "--raw", "--stats"),
        ("inspect",),
        ("inspect", "--graph"),
        ("bench", "-p", "256", "-n", "2", "-r", "1"),
        ("plan", "--machine", "xeon-6980p", "--context", "256", "--prompt", "256"),
    ],
)
def test_commands_say_what_it_gives_up(one_folder, monkeypatch, capsys, command):
    name, *options = command
    arguments = [name, str(one_folder), *(["word " * 30] if name == "run" else []), *options]
    monkeypatch.setattr(sys, "argv", ["ellm", *arguments, "--expanded-prefill"])
    with pytest.raises(SystemExit) as caught:
        main()
    printed = capsys.readouterr()
    assert caught.value.code == 0, printed.err
    said = [line for line in (printed.err + printed.out).splitlines() if line.startswith("expanded prefill:")]
    assert said
    assert "bits differ" in said[0]
    assert "per token of a prompt" in said[0]


@pytest.mark.parametrize("name", ["run", "inspect", "bench", "plan"])
def test_commands_refuse_it_in_one_line(tmp_path, monkeypatch, capsys, name):
    plain = write_checkpoint(tmp_path / "llama", "LlamaForCausalLM")
    options = {"run": ["hi"], "bench": ["-p", "100"], "inspect": []}
    options["plan"] = ["--machine", "xeon-6980p", "--context", "100", "--prompt", "100"]
    monkeypatch.setattr(sys, "argv", ["ellm", name, str(plain), *options[name], "--expanded-prefill"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "ellm: expanded prefill: llama has no latent attention, so nothing to expand"
    ]


def test_memory_for_the_expansion_is_asked_for(one_folder, monkeypatch):
    with LLM(one_folder, expanded_prefill=True, cache_bytes=0) as llm:
        expected = llm.generate([3] * 400, GREEDY)[0].token_ids
        absorbed, expanding = llm.runtime.compiled.programs
        latents = llm.engine.room.position_bytes
        expansion = (expanding.range_bytes - absorbed.range_bytes) // expanding.context
        assert expansion > latents and expansion >= expanding.prompt_position_bytes
        monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
        for tokens, fits in ((390, False), (400, True)):
            monkeypatch.setattr(llm.engine.room, "unchecked", 0.0)
            left = 408 * latents + tokens * expansion
            monkeypatch.setattr("ellm.system.memory.available", lambda left=left: left)
            if fits:
                assert llm.generate([3] * 400, GREEDY)[0].token_ids == expected
            else:
                with pytest.raises(InputError, match=r"the keys and values of 400 tokens after 0 need .* are left"):
                    llm.generate([3] * 400, GREEDY)
                with pytest.raises(InputError, match=r"the logits of 400 tokens need .* are left"):
                    llm.logits([3] * 400)
