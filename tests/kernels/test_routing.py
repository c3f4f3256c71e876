"""route, dispatch and combine against their references, and, if asked for, against the routers of transformers."""

from importlib import import_module

import numpy as np
import pytest
from harness import Case, each_isa, for_cases
from hypothesis import assume
from hypothesis import strategies as st

rows = st.integers(1, 64)
seeds = st.integers(0, 2**32 - 1)
experts = st.sampled_from([5, 7, 12, 60])
top_ks = st.integers(1, 8)

PLAIN = {"score": 0, "groups": 0, "keep_groups": 0, "group_top": 0, "masked_value": 0.0, "normalize": 0, "scale": 1.0}


def make_route(scores: np.ndarray, top_k: int, bias: np.ndarray | None = None, **args) -> Case:
    """Rows of the second of two row blocks; the first one's ids and weights are not to be touched."""
    case = Case("route", len(scores), block=1, blocks=2)
    case.place("scores", scores.astype(np.float32))
    case.args |= PLAIN | {"experts": scores.shape[1], "top_k": top_k} | args
    case.constant("bias", bias)
    for field, dtype in (("ids", np.int32), ("weights", np.float32)):
        chunk = case.shared(field, (128, top_k), dtype)
        case.outputs[field] = chunk[64 : 64 + case.rows]
    return case


def quantised(seed: int, rows: int, experts: int, ties: bool) -> np.ndarray:
    """Scores with many ties, or any."""
    x = np.random.default_rng(seed).standard_normal((rows, experts)) * 3
    return (np.round(x) if ties else x).astype(np.float32)


def margin(logits: np.ndarray, score: int) -> float:
    """The least relative difference of two distinct scores of a row: f32 must resolve it."""
    wide = np.sort(logits.astype(np.float64), axis=-1)
    scores = np.exp(wide) if score == 1 else 1 / (1 + np.exp(-wide))
    gaps = np.diff(scores, axis=-1) / scores[:, 1:]
    return float(np.min(gaps[gaps != 0], initial=1.0))


@for_cases(
    40, rows=rows, experts=experts, top_k=top_ks, score=st.integers(0, 2), normalize=st.integers(0, 2),
    ties=st.booleans(), scale=st.sampled_from([1.0, 2.5]), seed=seeds,
)  # fmt: skip
def test_route(isa, rows, experts, top_k, score, normalize, ties, scale, seed):
    assume(score or normalize != 1)  # scores as they are may add up to nothing
    args = {"score": score, "normalize": normalize, "scale": scale}
    scores = quantised(seed, rows, experts, ties)
    assume(not score or margin(scores, score) > 1e-6)
    case = make_route(scores, min(top_k, experts), **args)
    native, reference = case.run(isa), case.run(None)
    np.testing.assert_array_equal(native["ids"], reference["ids"])
    np.testing.assert_allclose(native["weights"], reference["weights"], rtol=2e-6)


@for_cases(
    40, rows=rows, groups=st.sampled_from([2, 3, 4]), size=st.sampled_from([2, 3, 5]), keep=st.integers(1, 4),
    top_k=top_ks, group_top=st.integers(1, 2), masked=st.sampled_from([0.0, -np.inf]), bias=st.booleans(),
    ties=st.booleans(), seed=seeds,
)  # fmt: skip
def test_route_in_groups(isa, rows, groups, size, keep, top_k, group_top, masked, bias, ties, seed):
    """Scores as they are, so that the choice is exact: a bias in eighths, negative choices, ties between groups."""
    keep = min(keep, groups)
    offsets = np.random.default_rng(seed).integers(-8, 9, groups * size).astype(np.float32) / 8
    args = {"groups": groups, "keep_groups": keep, "group_top": group_top, "masked_value": masked}
    scores = quantised(seed, rows, groups * size, ties)
    case = make_route(scores, min(top_k, keep * size), offsets if bias else None, **args)
    native, reference = case.run(isa), case.run(None)
    np.testing.assert_array_equal(native["ids"], reference["ids"])
    np.testing.assert_array_equal(native["weights"], reference["weights"])
    if masked < 0:
        assert all(len(set(row // size)) <= keep for row in native["ids"])


@each_isa
def test_ties_go_to_the_lower_number(isa):
    scores = np.float32([[1, 3, 3, 2, 3, 2, 2]])
    assert make_route(scores, 5).run(isa)["ids"].tolist() == [[1, 2, 4, 3, 5]]
    grouped = make_route(scores[:, :6], 2, groups=3, keep_groups=1, group_top=1, masked_value=-np.inf)
    assert grouped.run(isa)["ids"].tolist() == [[1, 0]]


@each_isa
def test_what_is_not_a_number_is_chosen_last(isa):
    case = make_route(np.float32([[np.nan, -1e30, np.nan, 5], [np.nan] * 4]), 3, normalize=2)
    out = case.run(isa)
    assert out["ids"].tolist() == [[3, 1, 0], [0, 1, 2]]


CONFIGS = {
    "qwen3_moe": ("Qwen3MoeTopKRouter", {"num_experts": 7, "num_experts_per_tok": 3, "norm_topk_prob": True}),
    "qwen3_moe unnormalised": (
        "Qwen3MoeTopKRouter", {"num_experts": 12, "num_experts_per_tok": 8, "norm_topk_prob": False}
    ),
    "mixtral": ("MixtralTopKRouter", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "gpt_oss": ("GptOssTopKRouter", {"num_local_experts": 7, "num_experts_per_tok": 4}),
    "deepseek_v2": (
        "DeepseekV2TopkRouter",
        {"n_routed_experts": 12, "num_experts_per_tok": 6, "topk_method": "greedy", "routed_scaling_factor": 16.0},
    ),
    "deepseek_v2 in groups": (
        "DeepseekV2TopkRouter",
        {"n_routed_experts": 60, "num_experts_per_tok": 6, "topk_method": "group_limited_greedy", "n_group": 5,
         "topk_group": 3},
    ),
    "deepseek_v3": (
        "DeepseekV3TopkRouter",
        {"n_routed_experts": 60, "num_experts_per_tok": 8, "n_group": 5, "topk_group": 2, "norm_topk_prob": True,
         "routed_scaling_factor": 2.5},
    ),
}  # fmt: skip
ROUTES = {
    "qwen3_moe": {"score": 1, "normalize": 1},
    "qwen3_moe unnormalised": {"score": 1},
    "mixtral": {"score": 1, "normalize": 1},
    "gpt_oss": {"normalize": 2},
    "deepseek_v2": {"score": 1, "scale": 16.0},
    "deepseek_v2 in groups": {"score": 1, "groups": 5, "keep_groups": 3, "group_top": 1},
    "deepseek_v3": {
        "score": 2, "normalize": 1, "groups": 5, "keep_groups": 2, "group_top": 2, "masked_value": -np.inf,
        "scale": 2.5,
    },
}  # fmt: skip


@pytest.mark.oracle
@each_isa
@pytest.mark.parametrize("name", CONFIGS)
def test_route_is_that_of_transformers(isa, name):
    """Every router's ids and weights, on random weights in float32."""
    import torch
    from transformers import AutoConfig

    kind, settings = CONFIGS[name]
    family = name.split()[0]
    router_class = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), kind)
    generator = torch.Generator().manual_seed(0)
    router = router_class(AutoConfig.for_model(family, hidden_size=32, **settings))
    for tensor in (*router.parameters(), *router.buffers()):
        tensor.data = torch.randn(tensor.shape, generator=generator) * 0.4
    with torch.no_grad():
        logits, weights, ids = router(torch.randn(50, 32, generator=generator))
    bias = router.e_score_correction_bias.numpy() if name == "deepseek_v3" else None
    out = make_route(logits.numpy(), ids.shape[1], bias, **ROUTES[name]).run(isa)
    order = np.argsort(ids.numpy(), -1)
    ours = np.argsort(out["ids"], -1)
    np.testing.assert_array_equal(np.take_along_axis(out["ids"], ours, -1), np.take_along_axis(ids.numpy(), order, -1))
    expected = np.take_along_axis(weights.numpy(), order, -1)
    np.testing.assert_allclose(np.take_along_axis(out["weights"], ours, -1), expected, rtol=5e-6)


def make_dispatch(ids: np.ndarray, experts: int, row_block: int = 16) -> Case:
    rows, top_k = ids.shape
    case = Case("dispatch", min(rows, row_block), row_block=row_block)
    case.step.rows = rows
    case.place_shared("ids", ids.astype(np.int32))
    case.args |= {"experts": experts, "top_k": top_k}
    case.output_shared("begin", (experts + 1,), np.int32)
    case.output_shared("position", (rows, top_k), np.int32)
    case.output_shared("rows_of", (experts,), np.int32)
    case.output_shared("list", (1 + experts,), np.int32)
    return case


def draw_ids(seed: int, rows: int, experts: int, top_k: int, popular: int) -> np.ndarray:
    """Distinct experts for each row, mostly of the first `popular`."""
    random = np.random.default_rng(seed)
    keys = random.random((rows, experts)) + 0.9 * (np.arange(experts) >= popular)
    return np.argsort(keys, -1)[:, :top_k]


@for_cases(
    40, rows=st.sampled_from([1, 2, 17, 90, 150, 700]), experts=experts, top_k=top_ks, popular=st.integers(1, 8),
    row_block=st.sampled_from([16, 64]), seed=seeds,
)  # fmt: skip
def test_dispatch(isa, rows, experts, top_k, popular, row_block, seed):
    """A stable sort by expert, whose positions and counts agree; and what the reference says."""
    ids = draw_ids(seed, rows, experts, min(top_k, experts), popular)
    case = make_dispatch(ids, experts, row_block)
    out, reference = case.run(isa), case.run(None)
    for field in ("begin", "position", "rows_of"):
        np.testing.assert_array_equal(out[field], reference[field])
    begin, count = out["begin"], int(out["list"][0])
    assert out["list"][1 : count + 1].tolist() == sorted(set(ids.flat)) == reference["list"][1 : count + 1].tolist()
    assert sorted(out["position"].flat) == list(range(ids.size))
    row_at = np.empty(ids.size, int)
    row_at[out["position"]] = np.arange(rows)[:, None]
    assert ((begin[ids] <= out["position"]) & (out["position"] < begin[ids + 1])).all()
    for e in range(experts):
        assert (np.diff(row_at[begin[e] : begin[e + 1]]) > 0).all()
        assert out["rows_of"][e] == begin[e + 1] - begin[e]


@each_isa
def test_dispatch_of_a_large_step(isa):
    case = make_dispatch(draw_ids(0, 4096, 60, 8, 10), 60, row_block=64)
    out, reference = case.run(isa), case.run(None)
    for field in ("begin", "position", "rows_of"):
        np.testing.assert_array_equal(out[field], reference[field])


@for_cases(
    30, rows=rows, n=st.sampled_from([1, 24, 33, 150]), top_k=top_ks, task_columns=st.sampled_from([16, 32, 64]),
    residual=st.sampled_from(["none", "apart", "in place"]), seed=seeds,
)  # fmt: skip
def test_combine(isa, rows, n, top_k, task_columns, residual, seed):
    random = np.random.default_rng(seed)
    case = Case("combine", rows, block=1, blocks=2)
    case.args |= {"top_k": top_k, "n": n, "task_columns": task_columns, "residual": -1}
    case.place_shared("y", random.standard_normal((rows * top_k, n)).astype(np.float32))
    weights = case.shared("weights", (64 + rows, top_k), np.float32)
    position = case.shared("position", (64 + rows, top_k), np.int32)
    weights[64:] = random.random((rows, top_k))
    position[64:] = random.permutation(rows * top_k).reshape(rows, top_k)
    case.output("out", (n,), np.float32)
    x = random.standard_normal((rows, n)).astype(np.float32)
    if residual == "apart":
        case.place("residual", x)
    elif residual == "in place":
        case.args["residual"] = case.args["out"]
        case.outputs["out"][:] = x
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    np.testing.assert_array_equal(native.view(np.uint32), reference.view(np.uint32))
