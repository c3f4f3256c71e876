"""The task graph of a compiled model, walked in pure Python in random orders and with random experts hit: every group
runs once, when it may, those of experts that got no rows never, and the step ends."""

import random

import numpy as np
import pytest
from small_models import EXPERTS, config, sparse, unusual

from ellm.dsl import compile, tasks, trace
from ellm.dsl.lower import lower
from ellm.dsl.rewrite import rewrite
from ellm.kernels import contract
from ellm.models import from_config
from ellm.scheduler.program import Kind

MODELS = {
    "llama": config(),
    "qwen3": config("Qwen3ForCausalLM"),
    "two windows": config("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=1),
    **{architecture: config(architecture) for architecture in EXPERTS},
}
BLOCK = 16
BLOCKS = 4


def counts_of(program, rows, logit_rows, sample, merges):
    """Table [kind, block] for a step of one sequence."""
    counts = np.zeros((program.kinds, program.blocks), int)
    counts[Kind.SPLITS, 0] = 1
    counts[Kind.PIECES, 0] = -(-rows // contract.PIECE)
    for block in range(program.blocks):
        present = min(max(rows - block * BLOCK, 0), BLOCK)
        wanted = min(max(logit_rows - block * BLOCK, 0), BLOCK)
        counts[Kind.ROWS, block] = present > 0
        counts[Kind.LOGITS, block] = wanted > 0
        counts[Kind.SAMPLE, block] = wanted if sample else 0
        for window_class in range(len(program.windows)):
            counts[Kind.ITEMS + 2 * window_class, block] = present
            counts[Kind.MERGES + 2 * window_class, block] = present if merges else 0
    return counts


def walk(program, counts, seed):
    """Operators and blocks (experts) in the order in which they complete, choosing at random among ready groups.

    Each wake hits random experts, one at least.
    """
    chooser = random.Random(seed)
    groups = program.groups
    wakes = {int(wake["group"]): wake for wake in program.wakes}
    missing = program.events["needed"].astype(int)
    for event, kind in enumerate(program.events["dynamic"]):
        missing[event] += np.count_nonzero(counts[kind]) if kind >= 0 else 0
    ready = [int(root) for root in program.roots if counts[groups["kind"][root], groups["block"][root]]]
    published, order, ended = set(ready), [], False

    def tasks_of(group):
        if groups["counts"][group] >= 0:
            return chooser.randint(1, 3)
        return counts[groups["kind"][group], groups["block"][group]]

    def complete(group):
        order.append((int(groups["op"][group]), int(groups["block"][group])))
        if group in wakes:
            wake = wakes[group]
            operator = groups["op"][wake["first"]]
            experts = int((groups["op"] == operator).sum())
            hit = chooser.sample(range(experts), chooser.randint(1, experts))
            assert missing[wake["join"]] == 0, "signalled before its experts ran"
            missing[wake["join"]] = len(hit)
            for expert in hit:
                publish(int(wake["first"]) + expert)
        for event in program.signals[group]:
            signal(int(event))

    def signal(event):
        nonlocal ended
        missing[event] -= 1
        if missing[event]:
            return
        assert not ended
        ended = ended or event == program.end
        for triggered in program.triggers[event]:
            signal(int(triggered))
        for group in map(int, program.publishes[event]):
            publish(group)

    def publish(group):
        assert group not in published, "published twice"
        published.add(group)
        if tasks_of(group):
            ready.append(group)
        elif groups["completes_empty"][group]:
            complete(group)

    while ready:
        assert not ended, "work after the end"
        complete(ready.pop(chooser.randrange(len(ready))))
    assert ended, "the step does not end"
    return order


GRAPHS = {
    **{name: from_config(model).graph() for name, model in MODELS.items()},
    "expanded": from_config(MODELS["DeepseekV3ForCausalLM"]).graph(expanded=True),
    "unusual": trace(unusual, 1024),
    "sparse": trace(sparse, 1024),
}
ONCE = ("dispatch", "scatter", "expand_latent")  # one group for all row blocks
JOINED = ("expert_down", "expand_latent")  # what reads them waits for all of their groups


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("rows, logit_rows", [(1, 0), (1, 1), (16, 1), (17, 17), (50, 3), (64, 64)])
def test_every_group_runs_once_after_all_it_needs(name, fuse, rows, logit_rows):
    graph = GRAPHS[name]
    program = compile(graph, context=1024, chunk=BLOCK * BLOCKS, row_block=BLOCK, fuse=fuse)
    operators = lower(rewrite(graph, fuse), 1024, BLOCK, BLOCKS).operators
    for seed, sample, merges in [(0, True, True), (1, False, False), (2, True, False), (3, False, True)]:
        counts = counts_of(program, rows, logit_rows, sample, merges)
        order = walk(program, counts, seed)
        active = {Kind.ROWS: -(-rows // BLOCK), Kind.LOGITS: -(-logit_rows // BLOCK)}
        wanted = {
            (number, block)
            for number, operator in enumerate(operators)
            for block in range(active[Kind.LOGITS if operator.logit_rows else Kind.ROWS])
            if not operator.experts and not (operator.kernel in ONCE and block)
        }
        assert len(order) == len(set(order))
        assert {group for group in order if not operators[group[0]].experts} == wanted
        place = {group: i for i, group in enumerate(order)}
        ran = {number: {part for op, part in order if op == number} for number in range(len(operators))}
        for number, block in order:
            operator = operators[number]
            for source in operator.after:
                if operator.kernel in ("gather", *ONCE) or operators[source].kernel in JOINED:
                    assert all(place[source, part] < place[number, block] for part in ran[source])
                elif operator.kernel == "expert_gate_up":
                    assert place[source, 0] < place[number, block]
                elif operator.kernel == "expert_down":
                    assert ran[source] == ran[number] != set()
                    assert place[source, block] < place[number, block]
                elif operators[source].kernel in ("qkv", "append") and operator.kernel == "attend":
                    assert all(place[source, b] < place[number, block] for b in range(block + 1))
                else:
                    assert place[source, block] < place[number, block]


def test_row_blocks_are_coupled_by_attention_alone():
    """Block 0 may be done with all layers before block 1 starts its second one."""
    program = compile(from_config(config()).graph(), context=1024, chunk=32, row_block=16)
    counts = counts_of(program, 32, 1, False, False)
    orders = [walk(program, counts, seed) for seed in range(40)]
    last, second = (program.op_names.index(f"layers.1.{name}") for name in ("down_proj", "qkv"))
    assert any(order.index((last, 0)) < order.index((second, 1)) for order in orders)


def test_a_fused_layer_is_a_chain_of_one_signal_events():
    program = compile(from_config(config()).graph(), context=1024, chunk=16, row_block=16)
    per_layer = [name.split(".", 2)[2] for name in program.op_names if name.startswith("layers.1.")]
    assert per_layer == ["qkv", "attend", "merge", "o_proj", "gate_up", "down_proj"]
    assert set(program.events["needed"].tolist()) == {0, 1, 2}
    joined = int((program.events["needed"] == 2).sum())
    assert joined == 1  # layer 0's qkv waits for embed and angles


def test_experts_run_while_the_shared_expert_does():
    """Neither waits for the other."""
    program = compile(from_config(MODELS["DeepseekV3ForCausalLM"]).graph(), context=1024, chunk=16, row_block=16)
    orders = [[op for op, _ in walk(program, counts_of(program, 16, 1, False, False), seed)] for seed in range(20)]
    down = program.op_names.index("layers.1.experts.down")
    combine = program.operators[program.op_names.index("layers.1.experts.combine")]
    (shared,) = set(combine.after) - {down}
    assert {order.index(down) < order.index(shared) for order in orders} == {True, False}


def test_two_attends_of_a_block_take_turns():
    """They use the same partials."""
    operators = compile(GRAPHS["unusual"], context=1024).operators
    first, second = (number for number, operator in enumerate(operators) if operator.kernel == "attend")
    assert operators[first + 1].kernel == "merge" and first + 1 in operators[second].after


def test_expert_groups_follow_each_other_and_are_sized_by_dispatch():
    program = compile(GRAPHS["GptOssForCausalLM"], context=1024, chunk=64, row_block=16)
    (wake, _) = program.wakes
    groups = program.groups[wake["first"] : wake["first"] + 7]
    assert groups["block"].tolist() == list(range(7))
    assert len(set(groups["counts"].tolist())) == len(set(groups["op"].tolist())) == 1
    sizes = {buffer.name: buffer for buffer in program.plan.shared_buffers}
    assert groups["counts"][0] == sizes["layers.0.dispatch.rows_of"].offset
    assert wake["list"] == sizes["layers.0.dispatch.list"].offset
    assert program.groups["op"][wake["group"]] == program.op_names.index("layers.0.scatter")


def test_every_operator_has_one_group_per_block():
    built = tasks.build(lower(rewrite(from_config(config()).graph()), 1024, 16, 3).operators, 3)
    assert [group[:2] for group in built.groups[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len(built.signals) == len(built.groups)
