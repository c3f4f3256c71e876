"""The page of `ellm inspect --html` in headless Chromium: what it shows, how it is used, and that it is alone."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Opened, chromium
from inspected import CONFIGS

from ellm import dsl, models
from ellm.cli.main import main
from ellm.inspection.page import page
from ellm.inspection.record import critical_path
from ellm.scheduler.contents import NamedTensor


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


def compiled(name, **changes):
    model = models.from_config(json.loads((CONFIGS / f"{name}.json").read_text()) | changes)
    return dsl.compile(model.graph(), context=model.context, chunk=64, row_block=16)


def opened(browser, folder, program, name="tiny", cores=(0, 1, 2)):
    path = folder / "page.html"
    path.write_text(page(program, name, list(cores)))
    return Opened(browser, path)


@pytest.fixture(scope="module")
def program():
    return compiled("qwen3-moe")


@pytest.fixture
def tiny(browser, folder, program):
    """The open page of a small mixture of experts; afterwards it must have been quiet and alone."""
    one = opened(browser, folder, program)
    yield one
    assert one.messages == [] and one.requests == [one.url]
    one.tab.close()


def nodes(one):
    return set(one.run("ellm.cy.nodes().map(node => node.id())"))


def edges(one):
    return {
        tuple(edge)
        for edge in one.run("ellm.cy.edges().map(edge => [edge.source().id(), edge.target().id(), edge.data('kind')])")
    }


def label(one, node):
    return one.run(f"ellm.cy.getElementById('{node}').data('label')")


def unfold(one, node):
    """Double click a node, which unfolds or folds it."""
    before = nodes(one)
    one.run(f"void ellm.cy.center(ellm.cy.getElementById('{node}'))")
    one.tab.mouse.dblclick(*one.node(node))
    one.tab.wait_for_function("before => ellm.cy.nodes().some(node => !before.includes(node.id()))", arg=sorted(before))


def test_a_model_of_480b_parameters_opens_from_its_config(browser, folder, monkeypatch):
    path, config = folder / "480b.html", Path(__file__).parents[2] / "bench/configs/qwen3-coder-480b-a35b"
    monkeypatch.setattr(sys, "argv", ["ellm", "inspect", str(config), "--html", str(path), "--isa", "portable"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0 and path.stat().st_size < 5e6
    one = Opened(browser, path)
    print(f"opened in {one.load_ms:.0f} ms")
    assert one.run("ellm.data.operators.length") == 749 and one.run("ellm.data.tasks.groups.op.length") == 23972
    assert nodes(one) == {"repeat0", *(f"op{number}" for number in [*range(14), 746, 747, 748])}
    assert "layer 0, for all of layers 0\u201361 (\u00d7 62)" in label(one, "repeat0")
    unfold(one, "op11")
    assert label(one, "rest11") == "154 more experts\n80 tasks a row tile each"
    unfold(one, "op2")
    group = one.run("ellm.model.operators[2].groups[0]")
    assert label(one, f"tasks{group}") == "112 tasks"
    unfold(one, f"group{group}")
    assert {f"task{group}.{index}" for index in range(24)} <= nodes(one) and label(one, f"tasks{group}") == "88 more"
    assert (one.messages, one.requests) == ([], [one.url])
    one.tab.close()


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss"])
def test_every_operator_of_other_families_unfolds(browser, folder, name):
    program = compiled(name)
    one = opened(browser, folder, program)
    for number in range(0, len(program.op_names), 7):
        one.tab.click("#fold")
        one.run(f"ellm.graph.choose(ellm.data.operators[{number}])")
        one.run(f"ellm.graph.toggle({{ operator: {number} }})")
        assert f"box{number}" in nodes(one)
    for view in ("memory", "table"):
        one.tab.click(f"[aria-controls={view}]")
    assert (one.messages, one.requests) == ([], [one.url])
    one.tab.close()


def test_the_graph_is_that_of_the_program_with_its_layers_folded(tiny, program):
    operators = program.operators
    shown = [number for number, one in enumerate(operators) if one.layer < 1]
    assert nodes(tiny) == {"repeat0", *(f"op{number}" for number in shown)}
    inside = {(f"op{a}", f"op{b}", "data") for b in shown for a in operators[b].after if a in shown}
    combine, qkv, o_proj = (program.op_names.index(f"layers.0.{name}") for name in ("experts.combine", "qkv", "o_proj"))
    gather = program.op_names.index("gather")
    through = {
        (f"op{combine}", f"op{qkv}", "loop"),
        (f"op{combine}", f"op{o_proj}", "loop"),
        (f"op{combine}", f"op{gather}", "data"),
    }
    assert edges(tiny) == inside | through


def test_nodes_do_not_overlap(tiny):
    boxes = tiny.run(
        "ellm.cy.nodes('.operator').map(node => { const b = node.boundingBox(); return [b.x1, b.y1, b.x2, b.y2] })"
    )
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        for a1, b1, a2, b2 in boxes[number + 1 :]:
            assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1
    wide = "nodes.map(node => node.boundingBox({ includeLabels: %s, includeNodes: %s }).w)"
    boxes, labels = (
        tiny.run(f"(nodes => {wide % which})(ellm.cy.nodes('.operator'))")
        for which in (("false", "true"), ("true", "false"))
    )
    assert all(label <= box for label, box in zip(labels, boxes, strict=True))


def test_a_block_folds_and_unfolds(tiny):
    assert tiny.tab.is_disabled("#unfold")
    tiny.run("void ellm.cy.getElementById('repeat0').select()")
    assert "4 layers" not in tiny.details() and "1 layer \u00d7 4" in tiny.details()
    assert tiny.tab.inner_text("#unfold") == "Fold this block"
    tiny.tab.click("#unfold")
    assert nodes(tiny) == {
        "repeat0",
        "op0",
        "op1",
        *(f"op{number}" for number in tiny.run("[-3, -2, -1].map(n => ellm.data.operators.length + n)")),
    }
    assert label(tiny, "repeat0") == "\u25b8 layers 0\u20133\n\u00d7 4, folded"
    assert tiny.tab.inner_text("#unfold") == "Unfold this block"
    unfold(tiny, "repeat0")
    assert "op2" in nodes(tiny)


def events_publishing(program, group):
    return [event for event in range(len(program.events)) if group in program.publishes[event]]


def test_an_operator_unfolds_to_the_groups_tasks_and_events_of_the_program(tiny, program):
    number = program.op_names.index("layers.0.o_proj")
    unfold(tiny, f"op{number}")
    groups = [int(group) for group in (program.groups["op"] == number).nonzero()[0]]
    assert len(groups) == program.blocks == 4
    tiles = program.operators[number].tiles
    assert f"op{number}" not in nodes(tiny)
    found = edges(tiny)
    for group in groups:
        (event,) = events_publishing(program, group)
        assert (f"event{event}", f"group{group}", "publishes") in found
        tasks = {to for source, to, kind in found if source == f"group{group}" and kind == "runs"}
        assert tasks == {f"task{group}.{index}" for index in range(tiles)}
        assert {(task, f"event{event}", "signals") for task in tasks for event in program.signals[group]} <= found
    tiny.tab.mouse.click(*tiny.node(f"task{groups[2]}.1"))
    text = tiny.details()
    assert f"task 1 of group {groups[2]}" in text and "row block 2" in text and "home core" in text
    assert f"event {program.signals[groups[2]][0]}" in text
    (event, *_) = program.signals[groups[2]]
    tiny.tab.mouse.click(*tiny.node(f"event{event}"))
    assert f"event {event}" in tiny.details() and "1 signal" in tiny.details()
    tiny.tab.click("#fold")
    assert f"op{number}" in nodes(tiny)


def test_many_tasks_are_one_node_until_their_group_is_unfolded(tiny, program):
    number = program.op_names.index("layers.0.qkv")
    unfold(tiny, f"op{number}")
    first, *others = tiny.run(f"ellm.model.operators[{number}].groups")
    assert [label(tiny, f"tasks{group}") for group in (first, *others)] == ["10 tasks"] * 4
    (event, *_) = program.signals[first]
    assert (f"tasks{first}", f"event{event}", "signals") in edges(tiny)
    for other in program.triggers[event]:
        assert (f"event{event}", f"event{other}", "triggers") in edges(tiny)
    unfold(tiny, f"tasks{first}")
    drawn = nodes(tiny)
    assert {f"task{first}.{index}" for index in range(10)} <= drawn and f"tasks{first}" not in drawn
    assert tiny.tab.inner_text("#unfold") == "Tasks as one node"
    tiny.tab.fill("#layer", "3")
    tiny.tab.press("#layer", "Enter")
    later = tiny.run(f"ellm.model.operators[{program.op_names.index('layers.3.qkv')}].groups[0]")
    assert f"task{later}.9" in nodes(tiny)


def test_experts_unfold_to_some_and_one_node_for_the_others(tiny, program):
    number = program.op_names.index("layers.0.experts.gate_up")
    tiny.run(f"ellm.graph.choose(ellm.data.operators[{number}])")
    tiny.tab.click("#unfold")
    wake = program.op_names.index("layers.0.scatter")
    groups = tiny.run(f"ellm.model.operators[{number}].groups")
    woken = {to for source, to, kind in edges(tiny) if source == f"op{wake}" and kind == "wakes"}
    assert woken == {*(f"group{group}" for group in groups[:6]), f"rest{number}"}
    assert label(tiny, f"rest{number}") == "14 more experts\n3 tasks a row tile each"
    assert sorted(tiny.run("ellm.cy.nodes('.event').map(node => node.data('label'))")) == ["1"] * 6 + ["14\nevents"]
    tiny.tab.click("#unfold")
    assert f"op{number}" in nodes(tiny)


def marked(one, what):
    return set(one.run(f"ellm.cy.{what}('.critical').map(one => one.id())"))


def test_the_critical_path_is_marked(tiny, program):
    path = critical_path(program, 3)
    ops = [f"op{program.groups['op'][one['group']]}" for one in path if "group" in one]
    drawn = nodes(tiny)
    assert marked(tiny, "nodes") == {op for op in ops if op in drawn} and "op1" in drawn - set(ops)
    inside = {f"{a} {b} data" for a, b in itertools.pairwise(ops) if {a, b} <= drawn}
    combine, qkv = (program.op_names.index(f"layers.0.{name}") for name in ("experts.combine", "qkv"))
    gather = program.op_names.index("gather")
    assert marked(tiny, "edges") == inside | {f"op{combine} op{qkv} loop", f"op{combine} op{gather} data"}
    ran = [op for op, one in zip(ops, (one for one in path if "group" in one), strict=True) if one["tasks"]]
    tiny.tab.mouse.click(*tiny.node(f"op{qkv}"))
    assert f"on it: task {ran.index(f'op{qkv}') + 1} of {len(ran)}" in tiny.details()
    tiny.tab.mouse.click(*tiny.node("op1"))
    assert "not on it" in tiny.details()
    tiny.tab.mouse.click(*tiny.node(f"op{program.op_names.index('layers.0.merge')}"))
    assert "on it, without a task" in tiny.details()
    tiny.tab.uncheck("#path")
    assert marked(tiny, "elements") == set()
    tiny.tab.check("#path")
    tiny.run("void ellm.cy.getElementById('repeat0').select()")
    tiny.tab.click("#unfold")
    assert "repeat0" in marked(tiny, "nodes")


def test_the_critical_path_runs_through_one_group_and_its_events(tiny, program):
    number = program.op_names.index("layers.0.o_proj")
    unfold(tiny, f"op{number}")
    path = [f"{kind}{at}" for one in critical_path(program, 3) for kind, at in list(one.items())[:1]]
    first, *others = tiny.run(f"ellm.model.operators[{number}].groups")
    at = path.index(f"group{first}")
    on, lines = marked(tiny, "nodes"), marked(tiny, "edges")
    assert {path[at - 1], path[at], f"task{first}.0", path[at + 1]} <= on
    assert {f"{path[at - 1]} {path[at]} publishes", f"{path[at]} task{first}.0 runs"} <= lines
    assert f"task{first}.0 {path[at + 1]} signals" in lines
    assert not on & {f"group{group}" for group in others}


def test_clicking_a_node_shows_all_that_is_known_of_it(tiny, program):
    number = program.op_names.index("layers.0.o_proj")
    tiny.tab.mouse.click(*tiny.node(f"op{number}"))
    text, operator = tiny.details(), program.operators[number]
    assert operator.line in text and "linear(o, w.self_attn.o_proj[d, h, k]" in text
    assert "out = bf16(norm(x)) . W^T" in text and operator.shape in text
    assert "model.layers.0.self_attn.o_proj.weight" in text and f"{operator.flops / 1e3:.3g} kFLOP" in text
    tiles = operator.tiles
    assert tiny.run("document.querySelectorAll('#details .tasks i').length") == tiles
    assert f"core 2: task{'s' if tiles - tiles * 2 // 3 > 1 else ''} {tiles * 2 // 3}" in text
    tiny.tab.click("#details .tasks i:last-child")
    assert f"task {tiles - 1}: column tiles" in tiny.details() and "home core 2" in tiny.details()


def test_home_cores_are_the_slices_of_the_scheduler(tiny):
    for count in (1, 2, 3, 7, 100):
        homes = tiny.run(f"d3.range({count}).map(index => ellm.model.home(index, {count}))")
        assert homes == [worker for worker in range(3) for _ in range(count * worker // 3, count * (worker + 1) // 3)]


def test_another_layer_is_shown_in_place_of_the_first(tiny, program):
    tiny.tab.fill("#layer", "2")
    tiny.tab.press("#layer", "Enter")
    assert f"op{program.op_names.index('layers.2.qkv')}" in nodes(tiny)
    assert f"op{program.op_names.index('layers.0.qkv')}" not in nodes(tiny)


def test_the_table_sorts_and_searches(tiny, program):
    tiny.tab.click("[aria-controls=table]")
    column = "[...document.querySelectorAll('#rows tbody td:nth-child(2)')].map(cell => cell.textContent)"
    assert "layers.0.qkv \u00d7 4" in tiny.run(column)
    tiny.tab.fill("#search", "layers.2.qkv")
    assert tiny.run(column) == ["layers.2.qkv"]
    tiny.tab.fill("#search", "")
    tiny.tab.uncheck("#folded")
    assert tiny.run(column) == program.op_names
    tiny.tab.fill("#search", "layers.2 DOWN_PROJ")
    assert tiny.run(column) == ["layers.2.experts.down"]
    tiny.tab.click("#rows tbody tr")
    assert tiny.details().startswith("layers.2.experts.down")
    tiny.tab.fill("#search", "")
    tiny.tab.click("#rows th:has-text('packed')")
    tiny.tab.click("#rows th:has-text('packed')")
    largest = max(program.operators, key=lambda one: one.weight_bytes)
    assert tiny.run(column)[0] == largest.name
    assert tiny.tab.get_attribute("#rows th:has-text('packed')", "aria-sort") == "descending"


def test_the_memory_plan_has_a_rectangle_a_buffer_at_its_place(tiny, program):
    tiny.tab.click("[aria-controls=memory]")
    plan = program.plan
    count = len(plan.buffers) + len(plan.shared_buffers)
    assert tiny.run("document.querySelectorAll('#plan .buffer').length") == count
    assert tiny.run("document.querySelectorAll('#plan .bound').length") == 2
    rectangles = tiny.run("""[...document.querySelectorAll('#plan .buffer')].map(rectangle => {
        const { name, offset, bytes, first, last } = rectangle.__data__;
        const [x, y, width, height] = ["x", "y", "width", "height"].map(a => Number(rectangle.getAttribute(a)));
        return { name, offset, bytes, first, last, x, y, width, height } })""")
    section = {one.name: one.offset for one in plan.buffers}
    scale = {(one["height"] / one["bytes"]) for one in rectangles if one["name"] in section and one["height"] > 2}
    assert max(scale) - min(scale) < 1e-6
    bottom = {
        round(one["y"] + one["height"] + one["offset"] * max(scale), 3)
        for one in rectangles
        if section.get(one["name"]) == one["offset"] and one["height"] > 2
    }
    assert len(bottom) == 1
    tiny.tab.click("#plan .buffer >> nth=0")
    assert rectangles[0]["name"] in tiny.details()


def test_names_are_shown_as_they_are_and_never_run(browser, folder):
    config = json.loads((CONFIGS / "qwen3-moe.json").read_text())
    hostile = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>$title${data}<!--&amp;'\""
    program = dsl.compile(models.from_config(config).graph(), context=512)
    texts = {name: hostile for name in ("part", "line", "shape")} | {"block": "", "layer": -1}
    weights = {hostile: NamedTensor(hostile, (1,))}
    program.operators = tuple(replace(one, **texts, weights=weights) for one in program.operators)
    program.plan = replace(program.plan, buffers=tuple(replace(one, name=hostile) for one in program.plan.buffers))
    one = opened(browser, folder, program, hostile)
    for view in ("memory", "table", "graph"):
        one.tab.click(f"[aria-controls={view}]")
    one.run("ellm.details.ofOperator(ellm.data.operators[0])")
    assert one.run("window.pwned") is None and one.run("document.images.length") == 0
    assert one.tab.inner_text("#name") == hostile and hostile in one.details() and hostile in one.tab.title()
    assert (one.messages, one.requests) == ([], [one.url])
    one.tab.close()


def test_the_policy_lets_nothing_else_run_or_load(browser, folder, program):
    one = opened(browser, folder, program)
    one.run("""document.body.append(
        Object.assign(document.createElement('script'), { textContent: 'window.pwned = 1' }),
        Object.assign(document.createElement('img'), { src: 'http://127.0.0.1:9/x.png' }))""")
    one.tab.wait_for_timeout(100)
    assert one.run("window.pwned") is None and len(one.messages) == 2
    assert all("Content Security Policy" in message for message in one.messages)
    one.tab.close()
