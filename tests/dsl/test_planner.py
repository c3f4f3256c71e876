"""The arena plan: buffers that may be live at once never overlap, in any order that the task graph allows."""

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import EXPERTS, config, graph, one_layer, sparse, unusual
from test_task_graph import counts_of, walk

from ellm.dsl import compile, trace
from ellm.dsl.arena import ALIGNMENT, Buffer, across, descendants, plan
from ellm.dsl.compiler import _plan
from ellm.dsl.lower import lower
from ellm.dsl.rewrite import rewrite
from ellm.kernels import contract
from ellm.models import from_config


@st.composite
def problems(draw):
    """A random DAG of operators (as what each waits for) and buffers that operators after their writers read."""
    count = draw(st.integers(1, 12))
    after = [sorted(draw(st.sets(st.integers(0, max(i - 1, 0)), max_size=min(i, 3)))) for i in range(count)]
    dag = networkx.DiGraph([(earlier, i) for i, waits in enumerate(after) for earlier in waits])
    dag.add_nodes_from(range(count))
    buffers = []
    for number in range(draw(st.integers(1, 10))):
        writer = draw(st.integers(0, count - 1))
        later = sorted(networkx.descendants(dag, writer))
        readers = sorted(draw(st.sets(st.sampled_from(later), max_size=3))) if later else []
        writers = [writer]
        if readers and draw(st.booleans()):
            writers.append(readers[-1])  # written over in place
        buffers.append(Buffer(str(number), 64 * draw(st.integers(1, 8)), writers, readers))
    return after, buffers, dag


def overlapping(buffers):
    return [
        (a, b)
        for i, a in enumerate(buffers)
        for b in buffers[i + 1 :]
        if a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
    ]


def brute_bound(buffers, dag):
    """Most bytes that any single operator has to see held."""
    most = 0
    for operator in dag:
        before = networkx.ancestors(dag, operator) | {operator}
        after = networkx.descendants(dag, operator) | {operator}
        held = [b for b in buffers if operator in b.writers or (before & set(b.writers) and after & set(b.readers))]
        most = max(most, sum(b.bytes for b in held))
    return most


@settings(max_examples=300, deadline=None)
@given(problems())
def test_buffers_share_bytes_only_if_the_graph_orders_them(problem):
    after, buffers, dag = problem
    planned = plan(buffers, after)
    reach = {operator: networkx.descendants(dag, operator) for operator in dag}

    def done_before(first, second):
        return all(write in reach[access] for access in first.writers + first.readers for write in second.writers)

    for a, b in overlapping(buffers):
        assert done_before(a, b) or done_before(b, a)
    assert all(buffer.offset % ALIGNMENT == 0 for buffer in buffers)
    assert planned.bytes == max(buffer.offset + buffer.bytes for buffer in buffers)
    assert planned.lower_bound == brute_bound(buffers, dag) <= planned.bytes


@settings(max_examples=200, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_every_reader_finds_what_was_written_in_any_allowed_order(problem, random):
    after, buffers, _ = problem
    plan(buffers, after)
    owner: dict[int, int] = {}
    waiting, done = set(range(len(after))), set()
    while waiting:
        operator = random.choice(sorted(i for i in waiting if done.issuperset(after[i])))
        for number, buffer in enumerate(buffers):
            lines = range(buffer.offset // 64, (buffer.offset + buffer.bytes) // 64)
            if operator in buffer.readers:
                assert all(owner.get(line) == number for line in lines)
            if operator in buffer.writers:
                owner.update(dict.fromkeys(lines, number))
        waiting.remove(operator)
        done.add(operator)


def test_fences_order_what_row_blocks_and_experts_do():
    """0 and 1 in every block, 2 one task after all of them, 3 and 4 of every expert, 5 after all of these."""
    masks = descendants([[], [0], [1], [2], [3], [4]])
    assert masks[0] == 0b111110 and masks[3] == 0b110000
    ordered = across(masks, [1, 2, 4])
    assert ordered[0] == ordered[1] == 0b111100, "block 0 may be at 1 while block 1 is at 0"
    assert ordered[2] == 0b111000
    assert ordered[3] == ordered[4] == 0b100000, "an expert may be at 4 while another is at 3"


@pytest.mark.parametrize("architecture", [*EXPERTS, "sparse"])
@pytest.mark.parametrize("fuse", [True, False])
def test_routed_rows_are_found_as_written_in_any_order_of_blocks_and_experts(architecture, fuse):
    model = trace(sparse, 1024) if architecture == "sparse" else graph(architecture, num_hidden_layers=4)
    program = compile(model, context=1024, chunk=64, row_block=16, fuse=fuse)
    lowering = lower(rewrite(model, fuse), 1024, 16, 4)
    _, planned = _plan(lowering)
    assert planned.lower_bound <= planned.bytes == program.plan.shared_bytes
    if architecture != "sparse":  # whose two sets of experts may run at once, which the bound does not know
        assert planned.bytes <= 1.1 * planned.lower_bound
    counts = counts_of(program, 64, 1, False, True)
    for seed in range(6):
        owner: dict[int, str] = {}
        for operator, _ in walk(program, counts, seed):
            for buffer in lowering.shared:
                lines = range(buffer.offset // 64, -(-buffer.end // 64))
                if operator in buffer.readers:
                    assert all(owner[line] == buffer.name for line in lines), program.op_names[operator]
                if operator in buffer.writers:
                    owner.update(dict.fromkeys(lines, buffer.name))


def test_what_row_blocks_share_lies_behind_their_sections_and_does_not_grow_with_depth():
    shallow, deep = (
        compile(graph("MixtralForCausalLM", num_hidden_layers=layers), context=512, chunk=64) for layers in (3, 12)
    )
    assert deep.shared_bytes == shallow.shared_bytes > 0
    assert deep.arena_bytes == deep.section_bytes * deep.blocks + deep.shared_bytes
    for buffer in deep.plan.shared_buffers:
        assert deep.section_bytes * deep.blocks <= buffer.offset <= deep.arena_bytes - buffer.bytes


def test_a_chain_needs_two_buffers():
    buffers = [Buffer(str(i), 128, [i], [i + 1]) for i in range(9)]
    planned = plan(buffers, [[]] + [[i] for i in range(9)])
    assert planned.bytes == planned.lower_bound == 256


@pytest.mark.parametrize("fuse", [True, False])
def test_plan_of_a_model_is_near_its_bound_and_the_same_for_any_depth(fuse):
    shallow, deep = (
        compile(from_config(config(num_hidden_layers=layers)).graph(), context=512, fuse=fuse).plan
        for layers in (2, 12)
    )
    assert shallow.lower_bound <= shallow.section_bytes <= 1.5 * shallow.lower_bound
    assert deep.section_bytes == shallow.section_bytes


@pytest.mark.parametrize("model", [one_layer, unusual])
@pytest.mark.parametrize("fuse", [True, False])
def test_what_gathers_read_is_held_until_the_step_ends(model, fuse):
    """Gathers of other row blocks may still read a section whose own logits are being computed."""
    program = compile(trace(model, 1024), context=512, fuse=fuse)
    sizes = {buffer.name: (buffer.offset, buffer.bytes) for buffer in program.plan.buffers}
    gathered = program.op_names.index("gather")
    x = contract.unpack("gather", program.args[gathered])["x"]
    logit_buffers = [sizes[name] for name in program.op_names[gathered:] if name in sizes]
    assert logit_buffers
    for offset, size in logit_buffers:
        assert not offset <= x < offset + size
        assert not x <= offset < x + program.row_block * 16 * 4
