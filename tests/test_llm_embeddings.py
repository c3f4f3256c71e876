"""Embeddings: what they are made of, and the same bits whatever else is computed, in whatever steps."""

import json
import threading

import numpy as np
import pytest
import tiny
from tiny import write_checkpoint
from tiny_gguf import write_tiny
from tokenizers import Tokenizer, processors
from until import until

from ellm import LLM, Busy, InputError, Late, PoolingParams, SamplingParams
from ellm.checkpoint import open_checkpoint
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.pack import pack
from ellm.scheduler import topology

MODELS = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "qwen3": {"architecture": "Qwen3ForCausalLM", "tie_word_embeddings": True},
    "qwen3-moe": {"architecture": "Qwen3MoeForCausalLM"},
    "deepseek-v3": {"architecture": "DeepseekV3ForCausalLM", "precision": "fp8"},
    "gpt-oss": {"architecture": "GptOssForCausalLM", "precision": "mxfp4"},
}
THREADS = 2 if len(topology.choose_cores(None)) > 1 else 1
RAW = PoolingParams(normalize=False)
POOLINGS = ["last", "mean"]


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / request.param, **MODELS[request.param])


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qwen3", **MODELS["qwen3"])


@pytest.fixture(scope="module")
def prompts():
    draws = np.random.default_rng(0)
    return [draws.integers(0, 331, size).tolist() for size in (130, 1, 9, 64, 65, 600)]


def vectors(outputs):
    return [output.embedding for output in outputs]


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_bits_depend_neither_on_threads_nor_on_steps_nor_on_company(folder, prompts, pooling):
    with LLM(folder, threads=1, pooling=pooling, cache_bytes=0) as llm:
        wanted = [llm.embed([one])[0].embedding for one in prompts]
    for chunk in (7, 64, 512):
        with LLM(folder, threads=THREADS, chunk=chunk, pooling=pooling) as llm:
            same(vectors(llm.embed(prompts)), wanted)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_bits_are_those_of_a_cold_cache(folder, prompts, pooling):
    (*_, prompt) = prompts
    with LLM(folder, pooling=pooling) as llm:
        (cold,) = llm.embed([prompt])
        warm, longer, shorter = llm.embed([prompt, [*prompt, 5], prompt[:550]])
    hits = warm.metrics.cached_tokens, shorter.metrics.cached_tokens
    assert hits == ((576, 544) if pooling == "last" else (0, 0)), hits  # whole tiles of what ends earlier
    with LLM(folder, pooling=pooling, cache_bytes=0) as llm:
        same(vectors(llm.embed([prompt, [*prompt, 5], prompt[:550]])), vectors([warm, longer, shorter]))
    np.testing.assert_array_equal(cold.embedding, warm.embedding)


def test_a_generation_goes_on_from_what_an_embedding_computed_beside_streams(qwen3, prompts):
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    with LLM(qwen3) as llm:
        wanted = llm.embed(prompts)
        (alone,) = llm.generate([prompts[0]], greedy)
    with LLM(qwen3, max_seqs=4, chunk=64) as llm:
        stream = llm.stream(prompts[0], greedy)
        next(stream)
        same(vectors(llm.embed(prompts)), vectors(wanted))
        for _ in stream:
            pass
        assert stream.output.token_ids == alone.token_ids
        (after,) = llm.generate([[*prompts[-1], 7]], greedy)
        assert after.metrics.cached_tokens == len(prompts[-1])


def test_an_embedding_is_what_the_head_multiplies(qwen3, prompts):
    head = open_checkpoint(qwen3).read_values("model.embed_tokens.weight", 0, 331)
    with LLM(qwen3, pooling="last") as llm:
        logits = llm.logits(prompts[0])
        (last,) = llm.embed([prompts[0]], RAW)
        (unit,) = llm.embed([prompts[0]])
        (short,) = llm.embed([prompts[0]], PoolingParams(dimensions=5))
        every = [llm.embed([prompts[0][: end + 1]], RAW)[0].embedding for end in range(len(prompts[0]))]
    np.testing.assert_allclose(from_bf16(to_bf16(last.embedding)) @ head.T, logits[-1], rtol=1e-4, atol=1e-4)
    wide = last.embedding.astype(np.float64)
    np.testing.assert_allclose(unit.embedding, wide / np.linalg.norm(wide), rtol=1e-6)
    np.testing.assert_allclose(short.embedding, wide[:5] / np.linalg.norm(wide[:5]), rtol=1e-6)
    with LLM(qwen3, pooling="mean") as llm:
        (mean,) = llm.embed([prompts[0]], RAW)
    np.testing.assert_array_equal(mean.embedding, np.mean(np.array(every, np.float64), axis=0).astype(np.float32))
    assert last.prompt_token_ids == prompts[0] and last.embedding.dtype == np.float32


def test_a_preempted_mean_counts_no_row_twice(qwen3, prompts):
    prompt = prompts[-1]
    with LLM(qwen3, pooling="mean", chunk=64) as llm:
        (wanted,) = llm.embed([prompt])
        engine, step, sent_back = llm.engine, llm.engine.step, []

        def disturbed(*given):
            step(*given)
            if len(sent_back) < 3 and engine.running and engine.running[0].sequence.cached > 64 * len(sent_back):
                sent_back.append(engine.running[0].sequence.cached)
                engine._send_back(engine.running[0])

        engine.step = disturbed
        (found,) = llm.embed([prompt])
        assert len(sent_back) == 3
    np.testing.assert_array_equal(found.embedding, wanted.embedding)


def test_texts_get_what_the_tokenizer_adds_and_chats_do_not(qwen3, tmp_path):
    folder = write_checkpoint(tmp_path / "embedder", **MODELS["qwen3"])
    path = folder / "tokenizer.json"
    backend = Tokenizer.from_file(str(path))
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", backend.token_to_id("<|endoftext|>"))]
    )
    backend.save(str(path))
    messages = [{"role": "user", "content": "the end"}]
    with LLM(qwen3) as plain, LLM(folder) as llm:
        bare, end = plain.tokenizer.encode("the end"), backend.token_to_id("<|endoftext|>")
        (output,) = llm.embed("the end")
        assert output.prompt_token_ids == [*bare, end]
        np.testing.assert_array_equal(output.embedding, plain.embed([[*bare, end]])[0].embedding)
        assert llm.tokenizer.chat(messages) == plain.tokenizer.chat(messages)


def sentence_transformers(folder, modules, **pooling):
    """What sentence-transformers writes beside a model."""
    kinds = [f"sentence_transformers.models.{name}" for name in modules]
    listed = [{"idx": i, "name": str(i), "path": "", "type": kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 88, **pooling}))


@pytest.mark.parametrize(
    "said, kind",
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_a_folder_says_how_it_is_pooled_and_packs_it(tmp_path, prompts, said, kind):
    folder = write_checkpoint(tmp_path / "model", **MODELS["qwen3"])
    with LLM(folder, pooling=kind) as llm:
        unit, raw = llm.embed(prompts[0])[0].embedding, llm.embed(prompts[0], RAW)[0].embedding
    sentence_transformers(folder, ["Transformer", "Pooling", "Normalize"], **said)
    with LLM(folder) as llm:
        np.testing.assert_array_equal(llm.embed(prompts[0])[0].embedding, unit)
    sentence_transformers(folder, ["Transformer", "Pooling"], **said)
    with open_checkpoint(folder) as checkpoint:
        pack(checkpoint, tmp_path / "packed")
    for path in (folder, tmp_path / "packed"):
        with LLM(path) as llm:
            np.testing.assert_array_equal(llm.embed(prompts[0])[0].embedding, raw)
            np.testing.assert_array_equal(llm.embed(prompts[0], PoolingParams(normalize=True))[0].embedding, unit)


@pytest.mark.parametrize(
    "modules, said, message",
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_lasttoken": True}, "its embeddings need Dense, which"),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True}, "pooling is 'cls', ellm has last and mean"),
        (["Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "pooling is 'mean.max'"),
    ],
)
def test_what_is_pooled_otherwise_is_refused_but_still_writes(tmp_path, modules, said, message):
    folder = write_checkpoint(tmp_path / "model", **MODELS["qwen3"])
    sentence_transformers(folder, modules, **said)
    with LLM(folder) as llm:
        with pytest.raises(InputError, match=message):
            llm.embed("the")
        assert llm.generate("the", SamplingParams(max_tokens=1, ignore_eos=True))[0].token_ids


@pytest.mark.parametrize("number, kind", [(0, "last"), (1, "mean"), (3, "last"), (2, "cls"), (9, "pooling_type 9")])
def test_a_gguf_file_says_how_it_is_pooled_and_packs_it(tmp_path, prompts, number, kind):
    _, _, path = write_tiny(tmp_path, pooling_type=number)
    ids = [token % 268 for token in prompts[0]]
    with open_checkpoint(path) as checkpoint:
        pack(checkpoint, tmp_path / "packed")
    for one in (path, tmp_path / "packed"):
        with LLM(one) as llm:
            if kind not in POOLINGS:
                with pytest.raises(InputError, match=f"pooling is '{kind}', ellm has last and mean"):
                    llm.embed(ids)
                continue
            (found,) = llm.embed(ids)
        with LLM(one, pooling=kind) as llm:
            np.testing.assert_array_equal(llm.embed(ids)[0].embedding, found.embedding)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"type": 3}]', "[", '[{"type": "x.Pooling"}]'])
def test_broken_modules_are_one_line(tmp_path, text):
    folder = write_checkpoint(tmp_path / "model", **MODELS["qwen3"])
    (folder / "modules.json").write_text(text)
    with pytest.raises(InputError, match=r"(modules.json|1_Pooling/config.json): .+") as caught:
        LLM(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["Qwen3Model", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_checkpoints_without_prefix_and_head_embed_the_same(qwen3, tmp_path, prompts, architecture, tied):
    folder = write_checkpoint(tmp_path / "model", **MODELS["qwen3"])
    config = json.loads((folder / "config.json").read_text())
    weights = tiny.random_weights(config, 0)
    tiny.write_weights(folder, {name.removeprefix("model."): value for name, value in weights.items()}, 1)
    config |= {"architectures": [architecture], "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    if architecture == "Qwen3ForCausalLM" and not tied:
        with pytest.raises(InputError, match=r"tensor lm_head\.weight is missing"):
            LLM(folder)
        return
    with LLM(qwen3) as llm:
        wanted = llm.embed(prompts)
    with LLM(folder) as llm:
        same(vectors(llm.embed(prompts)), vectors(wanted))
        if architecture == "Qwen3Model":
            for call in (llm.generate, llm.logits):
                with pytest.raises(InputError, match="a model without its head can embed, but not write"):
                    call([5, 6])


@pytest.mark.parametrize(
    "prompt, params, message",
    [
        ([], None, "the prompt is empty"),
        ([1] * 1025, None, "the prompt has 1025 tokens, the context has 1024"),
        ([[1], [1] * 1025], None, "the prompt has 1025 tokens, the context has 1024, prompt 2 of 2"),
        ([331], None, "token id 331 is not in the vocabulary of 331"),
        ([1], PoolingParams(dimensions=89), "dimensions is 89, the model's embeddings have 88"),
        ([1], {"dimensions": 3}, "pooling_params must be PoolingParams"),
    ],
)
def test_bad_prompts_and_parameters_are_one_line(qwen3, prompt, params, message):
    with LLM(qwen3) as llm, pytest.raises(InputError, match=message):
        llm.embed([prompt] if prompt == [] else prompt, params)


@pytest.mark.parametrize("fields", [{"dimensions": 0}, {"dimensions": True}, {"dimensions": 1.5}, {"normalize": 1}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        PoolingParams(**fields)


def test_a_pooling_that_there_is_not_is_refused(qwen3):
    with pytest.raises(InputError, match="pooling must be last or mean, not 'cls'"):
        LLM(qwen3, pooling="cls")


def test_nan_is_an_error(tmp_path):
    folder = write_checkpoint(tmp_path / "model", **MODELS["llama"])
    config = json.loads((folder / "config.json").read_text())
    weights = tiny.random_weights(config, 0)
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = np.full_like(weights[name], 0x7F7F)  # the largest bf16
    tiny.write_weights(folder, weights, 1)
    with LLM(folder) as llm, pytest.raises(InputError, match="the model's hidden state of 3 tokens is NaN"):
        llm.embed([5, 6, 7])


def test_dropping_embeddings_frees_them(qwen3, prompts):
    with LLM(qwen3, chunk=7) as llm:
        pending = llm.embeddings([prompts[-1]] * 8, notify=lambda: None)
        pending.close()
        llm.embed(prompts[1])  # behind the step under way
        assert llm.engine.idle and not llm.engine.running


def test_a_full_queue_and_a_deadline_are_those_of_answers(qwen3, prompts):
    with LLM(qwen3, queued_tokens=100, max_seqs=1) as llm:
        step, gate, told = llm.engine.step, threading.Event(), threading.Event()
        llm.engine.step = lambda *given: gate.wait() and step(*given)
        pending = llm.embeddings([prompts[-1]] * 3, notify=lambda: None, priority="batch")
        with pytest.raises(Busy, match="1800 tokens"):
            llm.embed(prompts[-1])
        assert pending.poll() is None
        pending.close()
        gate.set()
        until(lambda: llm.engine.idle)
        late = llm.embeddings(prompts[1], notify=told.set, deadline=1e-9)
        assert told.wait(60)
        with pytest.raises(Late):
            late.poll()
        with pytest.raises(InputError, match="priority must be interactive or batch, not 'low'"):
            llm.embeddings(prompts[1], notify=told.set, priority="low")


def test_a_model_that_was_given_back_embeds_the_same(qwen3, prompts):
    with LLM(qwen3, idle=0.05) as llm:
        first = llm.embed(prompts)
        until(lambda: llm.statistics().asleep)
        same(vectors(llm.embed(prompts)), vectors(first))
