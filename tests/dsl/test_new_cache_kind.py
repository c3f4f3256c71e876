"""A third kind of cache, which the tests make up: a state, the sum of all rows so far.

What it takes is here: a grammar rule, a lowering, a kernel in C and in NumPy, and the kernel's record. Engine, ranges
and planner ask its kind.
"""

import ctypes
import itertools
import subprocess

import engines
import numpy as np
import pytest
from small_models import packed_region, random_weights
from test_compiled_execution import TOKENS, answer

from ellm.cli.inspect import cache_lines
from ellm.dsl import attend, compile, embed, grammar, linear, logits, lower, rms_norm, trace
from ellm.dsl.value import Value
from ellm.kernels import contract, isa, layout, records, reference
from ellm.machine import description
from ellm.predict.planner import Planner
from ellm.scheduler import Pool, interpret, saved
from ellm.scheduler.contents import CacheKind
from ellm.serving.engine import Engine

FIELDS = {"x": "buffer", "out": "buffer", "width": "int", "state": "range"}
SOURCE = """
#include "task.h"

typedef struct { ellm_buffer x, out; ellm_int width; ellm_range state; } arguments;

void running_sum(const ellm_task *task) {
    const arguments *op = task->args;
    for (int row = 0; row < task->rows; row++) {
        float *sum = (float *)(task->step->ranges[task->step->slots[task->row + row]] + op->state);
        const float *x = (const float *)(task->section + op->x) + row * op->width;
        float *out = (float *)(task->section + op->out) + row * op->width;
        for (int i = 0; i < op->width; i++) out[i] = sum[i] += x[i];
    }
}
"""


def running_sum(x, cache):
    """The sum of a sequence's rows up to each, [T, width]."""
    return Value(x.graph, x.graph.add_op("running_sum", (x.key,), attributes={"cache": cache.name}))


def lower_running_sum(low, key, node):
    (width,) = node.shape[1:]
    kind = CacheKind("state", sequence_bytes=4 * width, cuttable=False, idempotent=False)
    args = {"x": low.dense(node.inputs[0]).buffer, "out": low.store(key, "running_sum").buffer, "width": width}
    args["state"] = low.ranges.add_state(node, kind)
    low.emit("running_sum", "running_sum", key, args)


def reference_running_sum(task):
    x, out = task.buffer(task.x, task.width), task.buffer(task.out, task.width)
    for row in range(task.rows):
        place = int(task.step.ranges[task.step.slots[task.row + row]]) + task.state
        state = layout.memory(place, (task.width,), np.float32)
        state += x[row]
        out[row] = state


def model(tokens, w, caches):
    """One layer that attends, and one that sums up."""
    x = embed(tokens, w.embed[50, 16])
    a = rms_norm(x, w.layers[0].norm[16], 1e-5)
    kv = caches[0].append(k=linear(a, w.layers[0].k[2, 8, 16]), v=linear(a, w.layers[0].v[2, 8, 16]))
    o = attend(linear(a, w.layers[0].q[4, 8, 16]), kv["k"], kv["v"], scale=0.5, window=30)
    x = x + linear(o, w.layers[0].o[16, 4, 8])
    s = running_sum(rms_norm(x, w.layers[1].norm[16], 1e-5), caches[1])
    x = x + linear(s, w.layers[1].out[16, 16])
    return logits(rms_norm(x, w.norm[16], 1e-5), w.head[50, 16])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The kernels with that of the sum, and the sum known to grammar, lowering, contract and records."""
    folder = tmp_path_factory.mktemp("running_sum")
    (folder / "running_sum.c").write_text(SOURCE)
    include = str(contract.__file__).rpartition("/")[0]
    source, library = str(folder / "running_sum.c"), str(folder / "running_sum.so")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-I", include, source, "-o", library], check=True)
    kernel = ctypes.CDLL(library).running_sum
    form = grammar.Form(lambda node, inputs: inputs[0].shape, ("x",), (), ("cache",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grammar.GRAMMAR, "running_sum", form)
        patch.setitem(lower._LOWER, "running_sum", lower_running_sum)
        patch.setitem(contract.FIELDS, "running_sum", FIELDS)
        patch.setitem(contract.DTYPES, "running_sum", np.dtype([(name, "i8") for name in FIELDS]))
        patch.setitem(records.RECORDS, "running_sum", records.Kernel(sync=records.Sync.ORDERED))
        patch.setitem(reference.KERNELS, "running_sum", reference_running_sum)
        known = isa.table(isa.choose().isa)
        address = ctypes.cast(kernel, ctypes.c_void_p).value
        yield isa.Table(known.isa, {**known.addresses, "running_sum": address}, known.enter, known.leave)


@pytest.fixture(scope="module")
def program(table):
    return compile(trace(model, 1024), context=1024, chunk=80, row_block=16)


@pytest.fixture(scope="module")
def region(program):
    return packed_region(program, random_weights(program))


@pytest.fixture(params=[1, 2])
def executable(request, program, region, table):
    with Pool(request.param) as pool:
        yield pool.load(program, table, region.ctypes.data)


def test_the_program_says_what_its_caches_are(program, tmp_path):
    attending, state = program.caches
    assert attending.kind == CacheKind("keys and values", position_bytes=64, window=30)
    assert attending.kind.cuttable and attending.kind.idempotent and attending.kind.kept
    assert state.kind == CacheKind("state", sequence_bytes=64, cuttable=False, idempotent=False)
    assert state.offset + state.bytes <= program.first_block and attending.offset == 0
    assert attending.bytes == program.range_bytes - program.first_block == program.context_blocks * program.block_bytes
    assert (program.position_bytes, program.sequence_bytes) == (64, 64)
    saved.save(program, tmp_path / "program.npz")
    assert saved.load(tmp_path / "program.npz").caches == program.caches


def test_row_blocks_run_one_after_the_other(program):
    op = program.op_names.index("layers.1.running_sum")
    groups = np.flatnonzero(program.groups["op"] == op).tolist()
    assert len(groups) == program.blocks == 5
    for before, group in itertools.pairwise(groups):
        (event,) = [n for n in range(len(program.events)) if group in program.publishes[n]]
        leading = {event} | {n for n in range(len(program.events)) if event in program.triggers[n]}
        assert leading & set(program.signals[before].tolist())


def test_any_cut_into_steps_gives_the_same_bits(executable, program):
    """Also over several row blocks."""
    whole = answer(program, 75, executable.run)
    assert np.isfinite(whole).all() and whole.std() > 0.1
    for steps in (1, 7, 40):
        np.testing.assert_array_equal(answer(program, steps, executable.run), whole)


def test_interpreted_it_gives_the_same(executable, program, region):
    wanted = answer(program, 75, executable.run)
    ours = answer(program, 30, lambda step: interpret.run(program, region.ctypes.data, step))
    np.testing.assert_allclose(ours, wanted, atol=0.05 * wanted.std())


def test_the_planner_counts_it_once_a_sequence(program):
    planner = Planner(lambda dtype: program, description.load("xeon-6980p"), batch=3)
    assert planner.cache_bytes(100) == 3 * (100 * 64 + 64)
    assert planner.memory_gb(1000) - planner.memory_gb(0) == pytest.approx(3 * 1000 * 64 / 1e9)


def test_inspect_shows_what_each_kind_takes(program):
    assert cache_lines(program) == [
        "caches       1 of keys and values: 0.1 kB per token, 0.0 kB per sequence; "
        "given back 30 tokens later, where memory is needed",
        "caches       1 of state: 0.0 kB per token, 0.1 kB per sequence; "
        "only a prompt that goes on from its end reuses it",
    ]


def test_the_engine_serves_it(executable, program):
    """Together as alone, going on from a cached end as anew."""
    prompts = [TOKENS[:40].tolist(), TOKENS[5:9].tolist(), TOKENS[30:70].tolist()]

    def serve(engine, *completions):
        engine.submit(completions)
        engines.finish(engine, completions)
        return [one.output().token_ids for one in completions]

    fresh = Engine([executable], chunk=32, slots=2, cache_bytes=0)
    engine = Engine([executable], chunk=32, slots=2)
    alone = [serve(fresh, engines.completion(prompt))[0] for prompt in prompts]
    assert serve(engine, *map(engines.completion, prompts)) == alone
    for prompt, spared in ((prompts[0], 0), ([*prompts[0], *alone[0], 3], 44), (prompts[0], 0)):
        one = engines.completion(prompt)
        assert serve(engine, one) == serve(fresh, engines.completion(prompt))
        assert one.output().metrics.cached_tokens == spared
