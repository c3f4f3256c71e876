"""Compiled programs run: fused and unfused programs, native and NumPy kernels, any cut into steps, give one answer."""

import numpy as np
import pytest
from small_models import (
    EXPERTS,
    config,
    given,
    graph,
    joined,
    one_layer_graph,
    packed_region,
    random_weights,
    sparse,
    unusual,
)

from ellm.checkpoint.packed_weights import fingerprint
from ellm.dsl import compile, trace
from ellm.dsl.rewrite import MANY_WORKERS
from ellm.kernels import isa
from ellm.models import from_config
from ellm.scheduler import Pool, StepInput, interpret

MODELS = {
    "llama": graph(),
    "llama-biased": graph(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": graph("MistralForCausalLM", sliding_window=20),
    "qwen2": graph("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": graph("Qwen3ForCausalLM", tie_word_embeddings=True),
    "one layer": one_layer_graph(),
    "unusual": trace(unusual, 1024),
    "sparse": trace(sparse, 1024),
    "given": trace(given, 1024),
    "joined": trace(joined, 1024),
    "drafter": from_config(config("DeepseekV3ForCausalLM")).drafter(),
    **{architecture: graph(architecture) for architecture in EXPERTS},
    "expanded v2": from_config(config("DeepseekV2ForCausalLM")).graph(expanded=True),
    "expanded v3": from_config(config("DeepseekV3ForCausalLM")).graph(expanded=True),
    "grouped": graph("DeepseekV2ForCausalLM", topk_method="group_limited_greedy", n_group=3, topk_group=2),
}
TOKENS = np.random.default_rng(1).integers(0, 50, 75).astype(np.int32)
GIVEN = np.random.default_rng(3).standard_normal((75, 72), np.float32)  # of each row


def compiled(name, **options):
    return compile(MODELS[name], context=1024, chunk=80, row_block=16, **options)


def rows_in(program, rows):
    """What a program that reads some gets of these rows beside their tokens."""
    return np.ascontiguousarray(GIVEN[rows, : program.input_width]) if program.input_width else None


def answer(program, steps, run):
    """Logits [75, vocab] of TOKENS as one sequence, `steps` rows at a time."""
    cache = np.zeros(program.range_bytes + 64, np.uint8)
    base = cache.ctypes.data + -cache.ctypes.data % 64
    parts = []
    for begin in range(0, len(TOKENS), steps):
        rows = len(TOKENS[begin : begin + steps])
        logits = np.full((rows, program.vocab), np.nan, np.float32)
        positions, tokens = np.arange(begin, begin + rows), TOKENS[begin : begin + rows]
        given = rows_in(program, positions)
        run(StepInput.of(positions, tokens, ranges=[base], logit_row=range(rows), logits=logits, input_rows=given))
        parts.append(logits)
    return np.concatenate(parts)


def native(program, region, steps):
    table = isa.table(isa.choose().isa)
    with Pool(1) as pool:
        executable = pool.load(program, table, region.ctypes.data)
        return answer(program, steps, executable.run)


@pytest.mark.parametrize("name", MODELS)
def test_programs_for_few_and_many_workers_give_the_same_logits_and_hidden_states(name):
    few, many = compiled(name, workers=2), compiled(name, workers=MANY_WORKERS + 1)
    assert many.kernels.count("rms_norm") or name == "unusual"
    weights = random_weights(few)
    regions = packed_region(few, weights), packed_region(many, weights)
    np.testing.assert_array_equal(native(many, regions[1], 75), native(few, regions[0], 75))
    if name != "unusual":
        np.testing.assert_array_equal(hidden(many, regions[1], 75), hidden(few, regions[0], 75))
    assert fingerprint(few.weights) == fingerprint(many.weights)


@pytest.mark.parametrize("name", MODELS)
def test_fused_and_unfused_programs_give_the_same_logits(name):
    fused, unfused = compiled(name), compiled(name, fuse=False)
    weights = random_weights(fused)
    first = native(fused, packed_region(fused, weights), 75)
    assert np.isfinite(first).all() and first.std() > 0.1
    np.testing.assert_array_equal(native(unfused, packed_region(unfused, weights), 75), first)
    np.testing.assert_array_equal(native(fused, packed_region(fused, weights), 7), first)


def hidden(program, region, steps):
    """Hidden states [75, width] of TOKENS, whose rows want no logits."""
    cache, parts = np.zeros(program.range_bytes + 64, np.uint8), []
    base = cache.ctypes.data + -cache.ctypes.data % 64
    with Pool(1) as pool:
        executable = pool.load(program, isa.table(isa.choose().isa), region.ctypes.data)
        for begin in range(0, len(TOKENS), steps):
            rows = len(TOKENS[begin : begin + steps])
            positions, tokens = np.arange(begin, begin + rows), TOKENS[begin : begin + rows]
            given = rows_in(program, positions)
            executable.run(StepInput.of(positions, tokens, ranges=[base], vocab=program.vocab, input_rows=given))
            parts.append(executable.hidden(range(rows)))
        np.testing.assert_array_equal(executable.hidden([rows - 1, 0]), parts[-1][[-1, 0]])
        with pytest.raises(ValueError, match=f"row {rows}: the last step had {rows} rows"):
            executable.hidden([rows])
    return np.concatenate(parts)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "unusual"])
def test_hidden_states_are_the_same_fused_and_unfused_in_any_steps(name):
    fused, unfused = compiled(name), compiled(name, fuse=False)
    weights = random_weights(fused)
    first = hidden(fused, packed_region(fused, weights), 75)
    np.testing.assert_array_equal(hidden(fused, packed_region(fused, weights), 7), first)
    np.testing.assert_allclose(hidden(unfused, packed_region(unfused, weights), 75), first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "SmolLM3ForCausalLM"])
def test_keys_and_values_in_int8_are_the_same_fused_and_unfused(architecture):
    made = graph(architecture, head_dim=32)
    fused, unfused = (
        compile(made, context=1024, chunk=80, row_block=16, kv="int8", fuse=fuse) for fuse in (True, False)
    )
    weights = random_weights(fused)
    first = native(fused, packed_region(fused, weights), 75)
    region = packed_region(unfused, weights)
    np.testing.assert_array_equal(native(unfused, region, 75), first)
    ours = answer(unfused, 75, lambda step: interpret.run(unfused, region.ctypes.data, step))
    np.testing.assert_allclose(ours, first, atol=0.1 * first.std())  # a code beside a tie is a whole one off


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(
    "name", ["llama-biased", "qwen2", "qwen3", "unusual", "sparse", "given", "drafter", "expanded v2", *EXPERTS]
)
def test_numpy_kernels_agree_with_native_ones(name, fuse):
    program = compiled(name, fuse=fuse)
    region = packed_region(program, random_weights(program))
    wanted = native(program, region, 75)
    ours = answer(program, 75, lambda step: interpret.run(program, region.ctypes.data, step))
    np.testing.assert_allclose(ours, wanted, atol=0.05 * wanted.std())


def test_rows_that_are_not_given_are_missed():
    program = compiled("given")
    region = packed_region(program, random_weights(program))
    for wrong in (None, GIVEN[:, :16], GIVEN[:75, :15].copy(), GIVEN[:74, :16].copy(), np.zeros((75, 16))):
        step = StepInput.of(range(75), TOKENS, vocab=program.vocab, input_rows=wrong)
        with Pool(1) as pool, pytest.raises(ValueError, match=r"input_rows is .*, expected C-contiguous float32"):
            pool.load(program, isa.table(isa.choose().isa), region.ctypes.data).run(step)


def test_two_sequences_may_read_one_block():
    """What one sequence computed of a prefix serves another whose table names its block, with the same bits."""
    program = compiled("llama")
    region = packed_region(program, random_weights(program))
    tokens = np.random.default_rng(2).integers(0, 50, 530).astype(np.int32)
    memory = np.zeros((2, program.range_bytes + 64), np.uint8)
    ranges = np.array([row.ctypes.data + -row.ctypes.data % 64 for row in memory], np.uint64)
    blocks = ranges[:, None] + program.block_offsets
    with Pool(1) as pool:
        executable = pool.load(program, isa.table(isa.choose().isa), region.ctypes.data)

        def run(slot, begin, end, **options):
            positions, slots = np.arange(begin, end), np.full(end - begin, slot)
            options |= {"slots": slots, "ranges": ranges, "logit_row": [end - begin - 1], "vocab": program.vocab}
            step = StepInput.of(positions, tokens[begin:end], **options)
            executable.run(step)
            return step.logits

        for begin in range(0, 512, 64):
            run(0, begin, begin + 64)
        blocks[1, 0] = blocks[0, 0]
        shared = run(1, 512, 530, blocks=blocks)
        assert not memory[1, 64 : program.block_bytes - 64].any()
        np.testing.assert_array_equal(shared, run(0, 512, 530))
