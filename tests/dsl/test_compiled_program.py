"""What a compiled program says: sizes, arguments, weights, costs; the same each time, and after saving and loading."""

import sys
from dataclasses import fields

import numpy as np
import pytest
from small_models import config, graph, joined, one_layer_graph, sparse

from ellm.dsl import (
    GraphError,
    LoweringError,
    attend,
    compile,
    compile_all,
    embed,
    experts,
    linear,
    logits,
    rms_norm,
    route,
    swiglu,
    trace,
)
from ellm.dsl.policy import packed_as
from ellm.kernels import contract
from ellm.kernels.formats import FORMATS
from ellm.kernels.records import panel_row_bytes
from ellm.kernels.routes import routes
from ellm.models import from_config
from ellm.scheduler import saved
from ellm.scheduler.contents import CacheKind, NamedTensor
from ellm.scheduler.program import Lists, Program

QWEN3_06B = {
    **config("Qwen3ForCausalLM", tie_word_embeddings=True),
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}
DEEPSEEK_671B = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 163840,
}
LLAMA_70B = {
    **config(),
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}


def assert_equal(one: Program, other: Program) -> None:
    for item in fields(Program):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, Lists):
            a, b = np.concatenate([a.begin, a.items]), np.concatenate([b.begin, b.items])
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), item.name
        else:
            assert a == b, item.name


def arguments(program, name) -> dict:
    op = program.op_names.index(name)
    return contract.unpack(program.kernels[program.op_kernel[op]], program.args[op])


def test_compiling_twice_gives_the_same_program():
    assert_equal(compile(graph(), context=700), compile(graph(), context=700))


@pytest.mark.parametrize("fuse", [True, False])
def test_saved_program_is_loaded_bit_for_bit(tmp_path, fuse):
    program = compile(graph("Qwen3ForCausalLM"), context=700, fuse=fuse)
    saved.save(program, tmp_path / "program.npz")
    assert_equal(saved.load(tmp_path / "program.npz"), program)


def calls_of_compiling(model):
    """How many functions are called to compile a model and to check it."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        compile(from_config(model).graph(), context=4096, chunk=512).check()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("model", [QWEN3_06B, DEEPSEEK_671B], ids=["dense", "experts"])
def test_compiling_is_linear_in_layers(model):
    few, many = (calls_of_compiling(model | {"num_hidden_layers": layers}) for layers in (8, 16))
    assert many < 2.3 * few


def test_compiling_has_no_loop_over_experts():
    few, many = (
        calls_of_compiling(DEEPSEEK_671B | {"num_hidden_layers": 4, "n_routed_experts": experts})
        for experts in (32, 256)
    )
    assert many < 1.1 * few


def test_sizes_of_a_model_with_latent_attention_and_experts():
    program = compile(from_config(DEEPSEEK_671B).graph(), context=4096, chunk=512)
    assert program.position_bytes == 61 * 576 * 2
    assert program.range_bytes == 61 * 576 * 2 * 4096
    assert (program.kv_heads, program.fold_heads, program.partial_floats) == (1, 128, 128 * (512 + 2))
    assert len(program.wakes) == 58
    assert int((program.groups["counts"] >= 0).sum()) == 58 * 256 * 2
    assert program.weights_bytes == pytest.approx(2 * 671e9, rel=0.01)
    assert program.token_bytes == pytest.approx(2 * 36.6e9, rel=0.01)


def test_latent_queries_are_made_where_attend_reads_them():
    program = compile(graph("DeepseekV3ForCausalLM", num_hidden_layers=1), context=64)
    to_keys, to_values, attends, append, turned = (
        arguments(program, f"layers.0.{name}") for name in ("kv_b_proj", "kv_b_proj_2", "attend", "append", "rope")
    )
    projected = arguments(program, "layers.0.q_b_proj")
    assert (to_keys["x"], to_keys["x_stride"], to_keys["x_group_stride"]) == (projected["out"], 4 * 28, 28)
    assert (turned["x"], turned["x_stride"], turned["x_group_stride"]) == (projected["out"] + 4 * 20, 4 * 28, 28)
    assert (to_keys["out"], turned["out"]) == (attends["q"], attends["q"] + 2 * 40)
    assert [(one["out_bf16"], one["out_group_stride"]) for one in (to_keys, turned)] == [(1, 48)] * 2
    assert (to_keys["pad"], turned["pad"]) == (0, attends["q_stride"] - 4 * 48)
    assert (attends["head_dim"], attends["value_dim"], attends["values_in_keys"]) == (48, 40, 1)
    assert (append["v"], append["value_dim"], append["values_in_keys"]) == (-1, 40, 1)
    assert (to_values["x"], to_values["x_group_stride"], to_values["heads"]) == (attends["out"], 40, 4)


def test_many_heads_are_turned_by_many_tasks():
    program = compile(from_config(DEEPSEEK_671B | {"num_hidden_layers": 4}).graph(), context=4096, chunk=512)
    tasks = {one.name: one.tiles for one in program.operators if one.kernel in ("rope", "copy")}
    assert tasks == {f"layers.{i}.{name}": count for i in range(4) for name, count in (("rope", 32), ("rope_2", 1))}


def test_parts_of_a_concat_that_others_read_are_copied():
    program = compile(trace(joined, 1024), context=64)
    assert [one.name for one in program.operators if one.kernel == "copy"] == ["concat", "concat_2", "concat_3"]
    norm, turned, product = (arguments(program, name) for name in ("last", "rope", "out"))
    assert (turned["out"], norm["out"]) == (product["x"] + 2 * 16, product["x"] + 2 * 24)
    assert (turned["pad"], norm["pad"]) == (0, product["x_stride"] - 4 * 28)
    copies = {number for number, one in enumerate(program.operators) if one.kernel == "copy"}
    assert not any(copies & set(program.operators[number].after) for number in copies), "none waits for another"


def test_experts_read_normalised_rows_that_are_stored_once():
    program = compile(graph("Qwen3MoeForCausalLM", num_hidden_layers=1), context=64)
    norm = arguments(program, "layers.0.post_attention_layernorm")
    assert norm["out_bf16"] == 1
    for reader in ("gate", "scatter"):
        args = arguments(program, f"layers.0.{reader}")
        assert (args["x"], args["x_bf16"], args["x_stride"]) == (norm["out"], 1, norm["out_stride"])
    combine = arguments(program, "layers.0.experts.combine")
    assert combine["out"] == combine["residual"] == arguments(program, "layers.0.o_proj")["out"]


def test_rows_for_experts_that_others_need_in_full_precision_are_rounded_by_scatter():
    program = compile(trace(sparse, 1024), context=64)
    scattered = arguments(program, "scatter")
    assert (scattered["x_bf16"], scattered["k"], scattered["k_tiles"], scattered["activations"]) == (0, 16, 1, 0)
    assert arguments(program, "experts.gate_up")["routed"] == scattered["out"]
    assert {"scatter_2", "dispatch", "dispatch_2"} <= set(program.op_names), "two sets of experts read different rows"


@pytest.mark.parametrize(
    "body, problem",
    [
        (lambda rows, w: linear(rows, w.up[16, 16]), "linear: of routed rows only that of swiglu is computed, not of"),
        (lambda rows, w: rows, "experts: the body must end in linear, not in dispatch"),
        (
            lambda rows, w: rms_norm(
                linear(swiglu(linear(rows, w.g[8, 16]), linear(rows, w.u[8, 16])), w.d[16, 8]), w.n[16], 1.0
            ),
            "rms_norm: no kernel computes this of",
        ),
    ],
)
def test_experts_that_no_kernel_computes_are_refused_by_line(body, problem):
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        return logits(
            experts(route(linear(x, w.gate[4, 16]), 2), x, lambda rows, e: body(rows, w.e[e])), w.head[50, 16]
        )

    with pytest.raises(LoweringError, match=rf"^dsl/test_compiled_program.py:\d+: {problem}"):
        compile(trace(model, 64), context=64)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"context": 0}, "context: 0 must be from 1 to the model's 2048 positions"),
        ({"context": 2049}, "context: 2049 must be from 1 to the model's 2048 positions"),
        ({"context": 64, "chunk": 0}, "chunk: 0 must be at least 1 row"),
        ({"context": 64, "row_block": 24}, "row_block: 24 must be a multiple of 16"),
    ],
)
def test_bad_sizes_are_one_line(sizes, message):
    with pytest.raises(GraphError) as caught:
        compile(graph(), **sizes)
    assert str(caught.value) == message


def test_sizes_of_a_program():
    program = compile(graph("Qwen3ForCausalLM"), context=700, chunk=100)
    assert (program.context, program.blocks, program.row_block, program.chunk) == (1024, 2, 64, 128)
    assert (program.windows, program.kv_heads, program.fold_heads) == ([0], 2, 2)
    assert program.partial_floats == 4 * (24 + 2)
    assert program.partials == 8 * 8 * (contract.SPAN // contract.LEAF)
    # 2 layers x 2 heads x (keys: 64 column tiles x 1 deep; values: 32 deep x 2 column tiles) of 1 KiB
    assert program.range_bytes == 2 * 2 * (64 + 64) * 1024
    assert program.vocab == 101
    assert program.position_bytes == 2 * 2 * 2 * 24 * 2


@pytest.mark.parametrize(
    "architecture, kind, position_bytes",
    [
        ("Qwen3ForCausalLM", "keys and values", 2 * 2 * 2 * 24),
        ("GptOssForCausalLM", "keys and values", 2 * 2 * 2 * 24),
        ("DeepseekV3ForCausalLM", "latents", 2 * 48),
    ],
)
def test_caches_of_a_program(architecture, kind, position_bytes):
    program = compile(graph(architecture), context=700)
    assert [(cache.name, cache.kind.name) for cache in program.caches] == [("cache.0", kind), ("cache.1", kind)]
    assert [cache.kind.position_bytes for cache in program.caches] == [position_bytes] * 2
    assert all(cache.kind.cuttable and cache.kind.idempotent for cache in program.caches)
    first, second = program.caches
    blocks = program.context // contract.SPLIT
    assert (program.first_block, program.block_bytes) == (0, (first.bytes + second.bytes) // blocks)
    assert program.range_bytes == blocks * program.block_bytes
    assert first.bytes >= position_bytes * program.context
    windowed, full = sorted((first, second), key=lambda cache: not cache.kind.window)
    assert {windowed.offset, full.offset} == {0, first.bytes // blocks}
    if windowed.kind.window:
        assert full.offset == 0, "what can be given back lies last"


def test_what_is_expanded_serves_a_prompt_alone():
    model = from_config(config("DeepseekV3ForCausalLM"))
    absorbed, expanded = compile_all([model.graph(), model.graph(expanded=True)], context=700)
    *kept, keys_and_values = expanded.caches
    assert tuple(kept) == absorbed.caches and all(cache.kind.kept for cache in kept)
    assert (keys_and_values.offset, keys_and_values.layer) == (absorbed.range_bytes, -1)
    assert keys_and_values.offset + keys_and_values.bytes == expanded.range_bytes
    assert (expanded.first_block, expanded.block_bytes) == (absorbed.first_block, absorbed.block_bytes)
    shape = model.config
    numbers = shape.num_attention_heads * (shape.qk_nope_head_dim + shape.qk_rope_head_dim + shape.v_head_dim)
    assert keys_and_values.kind == CacheKind("keys and values", 2 * numbers, kept=False)
    assert (expanded.position_bytes, expanded.prompt_position_bytes) == (absorbed.position_bytes, 2 * numbers)
    assert absorbed.prompt_position_bytes == 0


def test_what_a_drafter_keeps_lies_in_the_blocks_of_the_model():
    model = from_config(config("DeepseekV3ForCausalLM", num_nextn_predict_layers=1))
    alone = compile(model.graph(), context=700)
    graphs = [model.graph(), model.graph(expanded=True)]
    absorbed, expanded, drafter = compile_all(graphs, context=700, drafter=model.drafter())
    assert absorbed.caches[:-1] == alone.caches and absorbed.block_bytes > alone.block_bytes
    assert drafter.caches == absorbed.caches == expanded.caches[:-1]
    assert absorbed.caches[-1].layer == 2 and absorbed.caches[-1].kind == alone.caches[0].kind
    for program in (drafter, expanded):
        assert (program.first_block, program.block_bytes) == (absorbed.first_block, absorbed.block_bytes)
    assert (drafter.input_width, absorbed.input_width) == (model.config.hidden_size, 0)
    shared = drafter.weight_offsets() & absorbed.weight_offsets()
    added = [weight for weight in drafter.weights if weight.offset in drafter.weight_offsets() - shared]
    names = {source.name for weight in added for source in weight.sources}
    assert all(name.startswith("model.layers.2.") for name in names)
    assert {"model.layers.2.eh_proj.weight", "model.layers.2.shared_head.norm.weight"} <= names
    assert absorbed.weights_bytes == drafter.weights_bytes > alone.weights_bytes
    without = compile_all(graphs, context=700)[0].weights
    assert absorbed.weights == drafter.weights and drafter.weights[: len(without)] == without


def test_partials_are_bounded_by_memory():
    long = compile(from_config(LLAMA_70B).graph(), context=131072)
    assert long.partials == 8 * (contract.SPAN // contract.LEAF + (131072 - contract.SPAN) // contract.SPLIT)
    model = from_config(LLAMA_70B | {"num_hidden_layers": 1, "max_position_embeddings": 1 << 23})
    large = compile(model.graph(), context=1 << 23)
    assert 0.9 * (1 << 30) < large.partials * large.partial_floats * 4 <= 1 << 30


def test_each_window_is_a_class():
    model = graph("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=1)
    program = compile(model, context=512)
    assert program.windows == [0, 9]
    assert [arguments(program, f"layers.{i}.attend")["window_class"] for i in (0, 1)] == [0, 1]
    assert [arguments(program, f"layers.{i}.merge")["window_class"] for i in (0, 1)] == [0, 1]


def test_more_windows_than_the_step_has_room_for_are_refused():
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        for i in range(5):
            kv = caches[i].append(k=linear(x, w.k[i].p[2, 8, 16]), v=linear(x, w.v[i].p[2, 8, 16]))
            o = attend(linear(x, w.q[i].p[2, 8, 16]), kv["k"], kv["v"], scale=1.0, window=i + 1)
            x = x + linear(o, w.o[i].p[16, 2, 8])
        return logits(x, w.head[50, 16])

    with pytest.raises(LoweringError, match=r"attend: windows \[1, 2, 3, 4, 5\]: more than 4 distinct ones"):
        compile(trace(model, 64), context=64)


def test_attention_that_is_added_to_something_is_f32():
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        kv = caches[0].append(k=linear(x, w.k[2, 8, 16]), v=linear(x, w.v[2, 8, 16]))
        o = attend(linear(x, w.q[2, 8, 16]), kv["k"], kv["v"], scale=1.0)
        return logits(linear(o + o, w.o[16, 2, 8]), w.head[50, 16])

    args = arguments(compile(trace(model, 64), context=64), "attend")
    assert (args["out_bf16"], args["out_stride"]) == (0, 16)


def test_values_are_bf16_only_for_matrix_products_and_attend():
    program = compile(one_layer_graph(), context=64, fuse=False)
    assert arguments(program, "layers.0.norm")["out_bf16"] == 1
    assert arguments(program, "layers.0.q")["out_bf16"] == 0
    assert arguments(program, "layers.0.q_norm")["out_bf16"] == 0
    assert arguments(program, "layers.0.o")["x_bf16"] == 1
    assert arguments(program, "layers.0.down")["x_bf16"] == 0
    ropes = [arguments(program, name) for name in ("layers.0.rope", "layers.0.rope_2")]
    keys, queries = arguments(program, "layers.0.append"), arguments(program, "layers.0.attend")
    assert queries["q_bf16"] == 1
    assert {(rope["out"], rope["out_bf16"]) for rope in ropes} == {(keys["k"], 0), (queries["q"], 1)}
    fused = compile(one_layer_graph(), context=64)
    assert arguments(fused, "layers.0.down")["x_bf16"] == 1
    assert arguments(fused, "layers.0.attend")["q_bf16"] == 1
    assert arguments(fused, "layers.0.qkv")["x_bf16"] == 0


def test_residual_is_updated_in_place():
    program = compile(one_layer_graph(), context=64)
    for name in ("layers.0.o", "layers.0.down"):
        args = arguments(program, name)
        assert args["out"] == args["residual"] != args["x"]
    assert arguments(program, "layers.0.o")["out"] == arguments(program, "embed")["out"]


def test_residual_that_is_read_later_is_kept():
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        y = x + linear(linear(x, w.first[16, 16]), w.a[16, 16])
        z = y + linear(y, w.b[16, 16])
        return logits(x + linear(z, w.c[16, 16]), w.head[50, 16])

    program = compile(trace(model, 64), context=64)
    x = arguments(program, "embed")["out"]
    outs = [arguments(program, name)["out"] for name in "abc"]
    assert outs[0] != x, "x is read again by c"
    assert outs[0] != outs[1] != x, "y is the A operand of b too: other tasks of b still read it"
    assert outs[2] == x, "c is the last reader of x"


def test_every_weight_address_is_relocated_and_within_the_region():
    program = compile(graph("Qwen2ForCausalLM"), context=64)
    entries = {entry.offset: entry for entry in program.weights}
    for op, byte in program.relocations:
        offset = int(program.args[op, byte : byte + 8].view(np.int64)[0])
        assert offset + entries[offset].bytes <= program.weights_bytes
    present = sum(
        operator.kernel in ("qkv", "linear", "gate_up", "logits", "embed", "angles") for operator in program.operators
    )
    norms, biases = 2 * 2 + 1, 2
    assert len(program.relocations) == present + norms + biases


def test_costs_are_those_of_the_checkpoint():
    program = compile(graph(), context=64)
    operators = {operator.name: operator for operator in program.operators}
    assert operators["layers.0.qkv"].flops == 2 * (4 + 2 + 2) * 24 * 72
    assert operators["layers.0.gate_up"].flops == 2 * 2 * 88 * 72
    assert operators["logits"].flops == 2 * 101 * 72
    assert operators["layers.0.attend"].flops_per_key == 4 * 4 * 24
    assert operators["layers.0.o_proj"].line.startswith("models/llama.py:")
    assert operators["layers.0.o_proj"].weights["weight"] == NamedTensor(
        "model.layers.0.self_attn.o_proj.weight", (72, 4, 24)
    )
    # 8 heads of 2 column tiles, 3 deep
    assert operators["layers.0.qkv"].weight_bytes == 8 * 2 * 3 * 1024 + 4 * 80


def test_routed_rows_can_be_read_in_whole_tiles_of_rows():
    program = compile(graph("Qwen3MoeForCausalLM"), context=512, chunk=64)
    downs = [op for op, kernel in enumerate(program.op_kernel) if program.kernels[kernel] == "expert_down"]
    assert downs
    for op in downs:
        args = contract.unpack("expert_down", program.args[op])
        rows = program.chunk * program.operators[op].top_k
        buffers = program.plan.shared_buffers
        name = program.op_names[op].replace("down", "gate_up.out")
        (routed,) = (buffer for buffer in buffers if buffer.name == name)
        assert (routed.offset, routed.bytes) == (args["routed"], (rows + 15) * panel_row_bytes(args["k_tiles"], 0))


def test_values_are_f32_for_products_of_whole_numbers():
    dense = compile(one_layer_graph(), context=64, packing=packed_as(FORMATS["q8_0"]), routes=routes("avx2"))
    assert [arguments(dense, f"layers.0.{name}")["activations"] for name in ("qkv", "o", "gate_up", "down")] == [1] * 4
    assert arguments(dense, "layers.0.attend")["out_bf16"] == arguments(dense, "layers.0.gate_up")["out_bf16"] == 0
    assert arguments(dense, "layers.0.down")["x_bf16"] == 0
    plain = compile(one_layer_graph(), context=64, packing=packed_as(FORMATS["q8_0"]), routes=routes("avx2", "bf16"))
    assert arguments(plain, "layers.0.o")["activations"] == 0
    assert arguments(plain, "layers.0.attend")["out_bf16"] == 1


def test_experts_of_whole_numbers_take_whole_numbers_and_leave_f32():
    model = graph("Qwen3MoeForCausalLM", num_hidden_layers=1)
    program = compile(model, context=64, packing=packed_as(FORMATS["q4_0"]), routes=routes("avx2", "int8"))
    names = ("scatter", "experts.gate_up", "experts.down")
    scattered, gate_up, down = (arguments(program, f"layers.0.{name}") for name in names)
    assert (scattered["x_bf16"], scattered["activations"], scattered["format"]) == (0, 2, gate_up["format"])
    assert (gate_up["activations"], gate_up["out_bf16"], down["activations"]) == (2, 0, 2)
    assert (down["routed"], down["x_stride"]) == (gate_up["out"], gate_up["n"])
