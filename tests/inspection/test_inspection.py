"""The views of `ellm inspect` in text: against golden files, and against the program that they are of."""

import dataclasses
import itertools
import json
import re
from functools import partial

import inspected
import networkx as nx
import numpy as np
import pytest

from ellm.inspection.contracts import contracts
from ellm.inspection.diff import diff
from ellm.inspection.layers import repeats
from ellm.inspection.record import critical_path, record
from ellm.inspection.steps import Step
from ellm.kernels import contract
from ellm.scheduler import archive, topology
from ellm.scheduler.saved import load, save


@pytest.fixture
def inspect(in_process):
    """`in_process` for `ellm inspect`."""
    return partial(in_process, "inspect")


@pytest.fixture
def model(tmp_path):
    """A folder with a config.json."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text((inspected.CONFIGS / "qwen3-moe.json").read_text())
    return folder


@pytest.mark.parametrize("name", inspected.TEXTS)
def test_text_is_as_golden(name):
    assert inspected.golden(name) == (inspected.FOLDER / f"{name}.txt").read_text()


def test_every_kernel_has_a_contract_with_the_fields_of_its_struct():
    found = contracts()
    assert set(found) == set(contract.FIELDS)
    for kernel, fields in contract.FIELDS.items():
        assert found[kernel].text and {name: kind for name, (kind, _) in found[kernel].fields.items()} == fields
    assert found["swiglu"].fields["gate"] == ("buffer", "f32 [rows, width]")
    assert found["linear"].fields["eps"][0] == "real" and "ceil(n_tiles / task_tiles)" in found["linear"].text


@pytest.mark.parametrize(
    ("name", "changes", "folds"),
    [
        ("qwen3-moe", {"num_hidden_layers": 6}, [(0, 1, 6)]),
        ("qwen3-moe", {"num_hidden_layers": 6, "mlp_only_layers": [1, 3, 5]}, [(0, 2, 3)]),
        ("qwen3-moe", {"num_hidden_layers": 5, "mlp_only_layers": [2]}, [(0, 1, 2), (2, 1, 1), (3, 1, 2)]),
        ("deepseek-v3", {"num_hidden_layers": 5, "first_k_dense_replace": 2}, [(0, 1, 2), (2, 1, 3)]),
    ],
)
def test_layers_fold_into_the_block_that_repeats(name, changes, folds):
    found = repeats(inspected.program(name, **changes))
    assert [(one.first, one.period, one.times) for one in found] == folds


def test_json_holds_the_whole_task_graph(inspect, model):
    code, out, _ = inspect(model, "--json")
    found, tasks = json.loads(out), json.loads(out)["tasks"]
    assert code == 0 and found["name"] == "model" and found["cores"] == topology.choose_cores(None)
    groups = len(tasks["groups"]["op"])
    assert groups == len(tasks["signals"]) and len(tasks["events"]["needed"]) == len(tasks["publishes"])
    published = [group for groups in tasks["publishes"] for group in groups]
    woken = [
        group
        for group in range(groups)
        if found["operators"][tasks["groups"]["op"][group]]["kernel"] == "expert_gate_up"
    ]
    assert sorted(published + woken + tasks["roots"]) == list(range(groups))
    for operator in found["operators"]:
        assert set(operator["args"]) == set(found["kernels"][operator["kernel"]]["fields"])
    spans = [(one["first"], one["last"]) for one in found["plan"]["buffers"] + found["plan"]["shared_buffers"]]
    assert all(0 <= first <= last <= len(found["operators"]) for first, last in spans)


def test_buffers_that_overlap_in_order_and_address_do_not_exist():
    plan = record(inspected.program("deepseek-v3"), "", [0])["plan"]
    for buffers in (plan["buffers"], plan["shared_buffers"]):
        for one in buffers:
            for other in buffers:
                apart = one["last"] < other["first"] or one["offset"] + one["bytes"] <= other["offset"]
                behind = other["last"] < one["first"] or other["offset"] + other["bytes"] <= one["offset"]
                assert one is other or apart or behind, (one, other)


def test_views_print_one_after_the_other(inspect, model):
    code, out, _ = inspect(model, "--graph", "--tasks", "layers.2.o_proj", "--memory")
    assert code == 0
    places = [
        out.index(text) for text in ("GRAPH (fused)\n%0 = tokens()", "\nOPERATOR layers.2.o_proj\n", "\nSECTION of")
    ]
    assert places == sorted(places)


def test_dot_has_every_operator_and_what_it_waits_for(inspect, model):
    _, out, _ = inspect(model, "--dot")
    operators = json.loads(inspect(model, "--json")[1])["operators"]
    edges = {tuple(map(int, edge)) for edge in re.findall(r"op(\d+) -> op(\d+);", out)}
    assert edges == {(before, number) for number, one in enumerate(operators) for before in one["after"]}
    assert len(re.findall(r"op\d+ \[label=", out)) == len(operators)


def test_a_saved_program_is_inspected_and_compared_like_its_model(inspect, model, tmp_path):
    saved = tmp_path / "before.npz"
    assert inspect(model, "--save", saved) == (0, "", f"wrote {saved}: the program, to inspect or compare with later\n")
    assert inspect(model, "--diff", saved) == (0, "no difference\n", "")
    assert inspect(saved, "--tasks", "logits") == inspect(model, "--tasks", "logits")
    summary = inspect(saved)[1]
    assert re.search(r"^layers\.\*\.qkv +4 +qkv +bf16$", summary, re.MULTILINE) and "not looked at" not in summary
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_experts": 10}))
    out = inspect(saved, "--diff", model)[1]
    assert re.search(r"^layers\.\*\.experts\.down \(layers 0 to 3\): experts 20 -> 10, weight_bytes", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "{folder}/no/page.html"], "cannot write {folder}/no/page.html: No such file or directory"),
        (["--html", "{folder}"], "cannot write {folder}: it is a folder"),
        (["--html", ""], "cannot write '': its name is empty"),
        (["--save", "~nobody-at-all/p.npz"], "cannot write ~nobody-at-all/p.npz: Could not determine home directory"),
        (["--save", "{folder}/no/p.npz"], "cannot write {folder}/no/p.npz: No such file or directory"),
        (["--tasks", "qkv"], "no operator is called 'qkv'; there is layers.0.qkv"),
        (["--json", "--graph"], "--json and --graph cannot be printed together"),
        (["--tasks", ""], "no operator is called ''"),
        (["--diff", ""], "the model's name is ''"),
        (["--diff", "{folder}/config.npz"], "{folder}/config.npz: not a saved program: it has no checksum at its"),
        (["--diff", "{folder}/absent.npz"], "{folder}/absent.npz: cannot be read: No such file or directory"),
        (["--diff", "{folder}/config.json"], "{folder}/config.json: is a part of a checkpoint; give its folder"),
        (["--diff", "{folder}/absent"], "{folder}/absent: no such folder or file"),
    ],
)
def test_bad_options_are_one_line(inspect, model, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (model / "config.npz").write_text("no program")
    code, out, err = inspect(model, *(one.format(folder=model) for one in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"ellm: {message.format(folder=model)}")


@pytest.mark.parametrize("size", [0, 100, 0.5, -1])
def test_a_saved_program_that_was_cut_short_is_one_line(inspect, tmp_path, size):
    saved = tmp_path / "saved.npz"
    save(inspected.program(), saved)
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(size * len(whole)) if isinstance(size, float) else size])
    code, out, err = inspect(saved)
    assert (code, out, err) == (
        2,
        "",
        f"ellm: {saved}: not a saved program: it has no checksum at its end: it is something else, or was cut short\n",
    )


def test_a_saved_program_that_was_damaged_is_one_line(inspect, tmp_path):
    saved = tmp_path / "saved.npz"
    save(inspected.program(), saved)
    whole = saved.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, out, err = inspect(saved, "--memory")
        assert (code, out) == (2, "")
        assert err == f"ellm: {saved}: not a saved program: it was changed, as its checksum says\n"


def test_the_record_says_what_each_kind_of_cache_takes():
    (kind,) = record(inspected.program("deepseek-v3"), "tiny", [0])["caches"]
    assert (kind["name"], kind["caches"]) == ("latents", 3)
    assert (kind["position_bytes"], kind["sequence_bytes"]) == (2 * (128 + 64), 0)


def test_a_saved_program_says_what_it_said(tmp_path):
    program = inspected.program()
    save(program, tmp_path / "saved.npz")
    loaded = load(tmp_path / "saved.npz")
    said = ("graph", "operators", "weights", "caches", "plan", "token_bytes", "weight_bytes", "windows")
    assert len(program.operators) == len(program.op_names) and program.caches and program.weights and program.plan
    assert {name: getattr(loaded, name) for name in said} == {name: getattr(program, name) for name in said}
    assert [one.name for one in loaded.operators] == loaded.op_names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"operators": ({"part": "x"},)}, "operators[0] lacks kernel"),
        ({"operators": ({"part": "x", "kernel": "y", "color": "red"},)}, "operators[0] has an unknown color"),
        ({"operators": ({"part": "x", "kernel": "y", "after": [0, "1"]},)}, "operators[0].after[1] is '1', must be of"),
        ({"weights": "none"}, "weights is 'none', must be a list"),
        ({"plan": {"buffers": [7]}}, "plan.buffers[0] is 7, must be an object"),
        ({"vocab": True}, "vocab is True, must be of type int"),
    ],
)
def test_a_saved_program_that_says_something_else_is_one_line(inspect, tmp_path, change, words):
    save(dataclasses.replace(inspected.program(), **change), tmp_path / "saved.npz")
    code, out, err = inspect(tmp_path / "saved.npz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"ellm: {tmp_path}/saved.npz: not a saved program: {words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"after": (9999,)}, "operators.after holds 0 to 9999"),
        ({"precision": "int3"}, "weights are in int3, known are"),
    ],
)
def test_a_saved_program_that_says_what_cannot_be_is_one_line(inspect, tmp_path, change, words):
    program = inspected.program()
    first, *others = program.operators
    operators = (dataclasses.replace(first, **change), *others)
    save(dataclasses.replace(program, operators=operators), tmp_path / "saved.npz")
    code, out, err = inspect(tmp_path / "saved.npz")
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err


def test_a_program_that_was_saved_by_another_version_is_one_line(inspect, tmp_path):
    saved = tmp_path / "saved.npz"
    save(inspected.program(), saved)
    arrays = archive.read(saved)
    said = json.loads(arrays["json"].tobytes()) | {"meta": {}}
    archive.write(saved, arrays | {"json": np.frombuffer(json.dumps(said).encode(), np.uint8)})
    code, out, err = inspect(saved)
    assert (code, out) == (2, "")
    assert err == f"ellm: {saved}: not a saved program: it says something else than this version does\n"


def test_a_saved_program_of_no_model_is_one_line(inspect, tmp_path):
    save(dataclasses.replace(inspected.program(), operators=()), tmp_path / "saved.npz")
    code, out, err = inspect(tmp_path / "saved.npz")
    assert (code, out, err.count("\n")) == (2, "", 1) and "it says what 0 of its" in err


def test_a_saved_program_with_unknown_kernels_is_one_line(inspect, tmp_path):
    program = inspected.program()
    save(dataclasses.replace(program, kernels=["teleport", *program.kernels[1:]]), tmp_path / "saved.npz")
    code, out, err = inspect(tmp_path / "saved.npz")
    assert (code, out, err) == (2, "", f"ellm: {tmp_path}/saved.npz: this version has no kernels teleport\n")


def task_order(program):
    """Groups and events as a networkx graph; nodes of groups that have tasks in a decode step weigh 1."""
    graph = nx.DiGraph()
    for name, ranges in (("group", program.signals), ("event", program.triggers)):
        graph.add_edges_from(((name, at), ("event", int(to))) for at in range(len(ranges)) for to in ranges[at])
    graph.add_edges_from(
        (("event", at), ("group", int(to))) for at in range(len(program.publishes)) for to in program.publishes[at]
    )
    for wake in program.wakes:
        experts = program.operators[program.groups["op"][wake["first"]]].experts
        woken = range(int(wake["first"]), int(wake["first"]) + experts)
        graph.add_edges_from((("group", int(wake["group"])), ("group", expert)) for expert in woken)
    return graph


@pytest.mark.parametrize("name", ["qwen3-moe", "deepseek-v3", "gpt-oss"])
def test_the_critical_path_is_a_longest_chain_of_the_task_graph(name):
    program = inspected.program(name, num_hidden_layers=4)
    tasks, graph = Step(program, 1, 2).tasks, task_order(program)
    path = critical_path(program, 2)
    nodes = [next((kind, one[kind]) for kind in ("group", "event") if kind in one) for one in path]
    assert all(graph.has_edge(*pair) for pair in itertools.pairwise(nodes))
    assert nodes[0][1] in program.roots and nodes[-1] == ("event", program.end)
    assert [one["tasks"] for one in path if "group" in one] == [tasks[at] for kind, at in nodes if kind == "group"]
    for before, after in graph.edges:
        graph.edges[before, after]["tasks"] = int(before[0] == "group" and tasks[before[1]] > 0)
    assert sum(one.get("tasks", 0) > 0 for one in path) == nx.dag_longest_path_length(graph, weight="tasks")


def test_the_summary_names_the_operators_on_the_critical_path(inspect, model):
    layer = "qkv, attend, o_proj, post_attention_layernorm, gate, route, dispatch, scatter, experts.gate_up"
    path = f"embed, 4 x ({layer}, experts.down, experts.combine), gather, logits, sample"
    assert f"\nThe critical path of decode: {path}\n" in inspect(model)[1]


def test_a_change_of_all_layers_is_one_line_however_many_there_are():
    sparse = inspected.program(num_hidden_layers=12)
    dense = inspected.program(num_hidden_layers=12, mlp_only_layers=list(range(12)))
    lines = [line for line in diff(sparse, dense) if ".o_proj" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "layers.*.o_proj (layers 1 to 11): waits for layers.*.experts.combine"
    )


def test_home_cores_are_where_the_loader_puts_the_tiles():
    program = inspected.program()
    number = program.op_names.index("logits")
    tiles = program.operators[number].tiles
    text = "\n".join(inspected.text.tasks(program, "logits", [4, 7, 9]))
    owned = [range(tiles * worker // 3, tiles * (worker + 1) // 3) for worker in range(3)]
    for core, tasks in zip([4, 7, 9], owned, strict=True):
        assert re.search(rf"core {core} +tasks {tasks[0]} to {tasks[-1]}\n", text)
    assert np.sum([len(tasks) for tasks in owned]) == tiles
