"""Operands that do not fit fail on the model's line, with both shapes and the checkpoint's name of the weight."""

import re

import pytest

from ellm.dsl import (
    Expert,
    GraphError,
    Rope,
    ShapeError,
    attend,
    concat,
    embed,
    expand_latent,
    experts,
    head_linear,
    input_rows,
    linear,
    logits,
    rms_norm,
    rope,
    route,
    softmax,
    swiglu,
    trace,
)
from ellm.models.layers import mlp
from ellm.system.errors import InputError


def message(body) -> str:
    """The error of `body(x, w, caches)` with x [T, 16], without its line number."""

    def model(tokens, w, caches):
        return body(embed(tokens, w.embed[50, 16]), w.layers[3], caches)

    with pytest.raises(GraphError) as caught:
        trace(model, 64)
    assert isinstance(caught.value, InputError)
    line, text = str(caught.value).split(": ", 1)
    assert line == f"dsl/test_shape_errors.py:{body.__code__.co_firstlineno}"
    return text


def heads(x, w, h=4, d=8):
    return linear(x, w.q_proj[h, d, 16])


def cached(x, w, caches, g=2, d=8):
    return caches[0].append(k=linear(x, w.k_proj[g, d, 16]), v=linear(x, w.v_proj[g, d, 16]))


def test_rows_that_are_given_have_a_width():
    found = message(lambda x, w, caches: input_rows(x, 0))
    assert found == "input_rows: tokens are [T, 16], must be [T]"
    with pytest.raises(ShapeError, match="input_rows: width is 0, must be positive"):
        trace(lambda tokens, w, caches: input_rows(tokens, 0), 64)


def test_linear_contracts_all_dims_after_the_rows():
    found = message(lambda x, w, caches: linear(x, w.mlp.up_proj[40, 17]))
    assert found == "linear: x is [T, 16], weight layers.3.mlp.up_proj.weight[40, 17]: it must be [output dims..., 16]"
    found = message(lambda x, w, caches: linear(heads(x, w), w.o_proj[16, 8, 4]))
    assert found == "linear: x is [T, 4, 8], weight layers.3.o_proj.weight[16, 8, 4]: it must be [output dims..., 4, 8]"
    found = message(lambda x, w, caches: linear(heads(x, w), w.o_proj[16, 32]))
    assert found == "linear: x is [T, 4, 8], weight layers.3.o_proj.weight[16, 32]: it must be [output dims..., 4, 8]"


def test_linear_weight_needs_output_dims():
    found = message(lambda x, w, caches: linear(x, w.up_proj[16]))
    assert found == "linear: x is [T, 16], weight layers.3.up_proj.weight[16]: it must be [output dims..., 16]"


def test_norm_weight_has_the_last_dim():
    found = message(lambda x, w, caches: rms_norm(x, w.norm[15], 1e-6))
    assert found == "rms_norm: x is [T, 16], weight layers.3.norm.weight[15]: it must be [16]"


def test_add_needs_equal_shapes():
    found = message(lambda x, w, caches: x + linear(x, w.o_proj[15, 16]))
    assert found == "add: left is [T, 16], right is [T, 15]"


def test_swiglu_needs_equal_shapes():
    found = message(lambda x, w, caches: swiglu(linear(x, w.gate[40, 16]), linear(x, w.up[41, 16])))
    assert found == "swiglu: gate is [T, 40], up is [T, 41]: both must be [T, width]"


def test_rope_rotates_no_more_than_a_head():
    found = message(lambda x, w, caches: rope(heads(x, w), Rope((1.0,) * 5)))
    assert found == "rope: x is [T, 4, 8]: its heads are smaller than the 10 rotated dims"
    found = message(lambda x, w, caches: rope(x, Rope((1.0,))))
    assert found == "rope: x is [T, 16], must be [T, heads, head_dim]"


def test_cache_needs_keys_and_values_of_the_same_heads():
    found = message(
        lambda x, w, caches: caches[0].append(k=linear(x, w.k_proj[2, 8, 16]), v=linear(x, w.v_proj[4, 8, 16]))
    )
    assert found == "append: k is [T, 2, 8], v is [T, 4, 8]: both must be [T, kv heads, dim]"
    found = message(lambda x, w, caches: caches[0].append(k=linear(x, w.k_proj[2, 8, 16]), v=9))
    assert found == "append: k is [T, 2, 8]: 9 of its dims cannot be the values"


def test_attend_needs_heads_that_divide_and_equal_head_dims():
    found = message(lambda x, w, caches: attend(heads(x, w, 3), *cached(x, w, caches).values(), scale=1.0))
    assert found == "attend: q is [T, 3, 8], keys and values are [S, 2, 8]: 3 heads are no multiple of 2 KV heads"
    found = message(lambda x, w, caches: attend(heads(x, w, 4, 4), *cached(x, w, caches).values(), scale=1.0))
    assert found == "attend: q is [T, 4, 4], keys and values are [S, 2, 8]: their head dims differ"


def test_attend_needs_the_two_halves_of_one_append():
    found = message(lambda x, w, caches: attend(heads(x, w), *[cached(x, w, caches)["k"]] * 2, scale=1.0))
    assert found == 'attend: k and v must be ["k"] and ["v"] of one cache.append'
    found = message(lambda x, w, caches: attend(heads(x, w), *cached(x, w, caches).values(), scale=1.0, window=-1))
    assert found == "attend: window -1 is negative"


def test_only_latents_can_be_expanded_and_by_weights_that_fit():
    def latents(x, w, caches):
        return caches[0].append(k=linear(x, w.kv[1, 12, 16]), v=8)

    found = message(lambda x, w, caches: expand_latent(latents(x, w, caches), w.uk[4, 6, 9], w.uv[4, 7, 8]))
    weights = "layers.3.uk.weight[4, 6, 9] and layers.3.uv.weight[4, 7, 8]"
    assert found == f"expand_latent: latents are [S, 1, 8]: weights {weights} must be [heads, dim, 8]"
    found = message(lambda x, w, caches: expand_latent(cached(x, w, caches), w.uk[4, 6, 8], w.uv[4, 7, 8]))
    assert found == "expand_latent: keys [S, 2, 8] of append: must be one a position, with the values in it"


def test_logits_need_rows_of_the_head_width():
    found = message(lambda x, w, caches: logits(x, w.lm_head[50, 15]))
    assert found == "logits: x is [L, 16], weight layers.3.lm_head.weight[50, 15]: it must be [output dims..., 16]"


def test_weight_without_shape_or_with_a_bad_dim_is_refused():
    assert message(lambda x, w, caches: linear(x, w.up)) == "weight layers.3.up.weight has no shape: write it as [dims]"
    assert (
        message(lambda x, w, caches: linear(x, w.up[0, 16])) == "weight layers.3.up.weight: dim 0 is not a positive int"
    )


def test_biased_linear_takes_the_bias_of_the_output_dims():
    found = {}

    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        q = linear(x, w.q[4, 8, 16], bias=True)
        found.update(q.graph.node(q.key).weights)
        return logits(linear(q, w.o[16, 4, 8]), w.head[50, 16])

    trace(model, 64)
    assert str(found["bias"]) == "q.bias[4, 8]"


def scores(x, w):
    return softmax(linear(x, w.gate[6, 16]))


def routes(x, w):
    return route(scores(x, w), 2)


def expert(rows, w, n=8):
    return linear(swiglu(linear(rows, w.gate[n, 16]), linear(rows, w.up[n, 16])), w.down[16, n])


@pytest.mark.parametrize(
    "how, problem",
    [
        ({"k": 7}, "scores are [T, 6]: cannot choose 7 of 6 experts"),
        ({"k": 0}, "scores are [T, 6]: cannot choose 0 of 6 experts"),
        ({"groups": 4, "keep_groups": 1}, "scores are [T, 6]: 6 experts are not 4 groups of one size"),
        ({"groups": 3, "keep_groups": 4}, "cannot keep 4 of 3 groups"),
        ({"k": 3, "groups": 3, "keep_groups": 1}, "cannot choose 3 experts of 1 groups of 2"),
        ({"groups": 6, "keep_groups": 2, "group_top": 2}, "group_top is 2: a group of 1 has no such sum"),
        ({"normalize": "max"}, "normalize is 'max', must be none, sum or softmax"),
    ],
)
def test_route_needs_experts_and_groups_that_fit(how, problem):
    assert message(lambda x, w, caches: route(scores(x, w), **{"k": 2, **how})) == f"route: {problem}"


def test_bias_of_a_choice_has_one_number_per_expert():
    found = message(lambda x, w, caches: route(scores(x, w), 2, bias=w.gate.bias[5]))
    assert found == "route: bias layers.3.gate.bias[5] must be [6]"


def test_expert_weights_need_the_experts_index_and_routed_rows():
    found = message(lambda x, w, caches: experts(routes(x, w), x, lambda rows, e: linear(rows, w.up[8, 16])))
    assert found == "linear: x is [R, 16], weight layers.3.up.weight[8, 16]: it needs the expert's index"
    found = message(lambda x, w, caches: experts(routes(x, w), x, lambda rows, e: linear(x, w.e[e].up[8, 16])))
    problem = "it has an expert's index, but x is no routed rows"
    assert found == f"linear: x is [T, 16], weight layers.3.e.{{expert}}.up.weight[8, 16]: {problem}"
    found = message(lambda x, w, caches: linear(x, w.up[8, Expert(6)]))
    assert found == "weight layers.3.up: an expert's index comes first"


def test_what_does_not_fit_in_a_shared_layer_names_the_line_that_calls_it():
    def refused(body) -> str:
        place, text = message(body).split(": ", 1)
        assert re.fullmatch(r"models/layers\.py:\d+", place)
        return text

    found = refused(lambda x, w, caches: experts(routes(x, w), x, lambda rows, e: mlp(rows, w.experts[e], 15, 8)))
    weight = "layers.3.experts.{expert}.gate_proj.weight[8, 15]"
    assert found == f"linear: x is [R, 16], weight {weight}: it must be [output dims..., 16]"
    found = refused(lambda x, w, caches: experts(routes(x, w), x, lambda rows, e: mlp(rows, w.experts[e], 16, 0)))
    assert found == "weight layers.3.experts.{expert}.gate_proj.weight: dim 0 is not a positive int"
    found = refused(lambda x, w, caches: mlp(x, w.mlp, 15, 8))
    assert found == "linear: x is [T, 16], weight layers.3.mlp.gate_proj.weight[8, 15]: it must be [output dims..., 16]"


def test_body_of_experts_returns_routed_rows():
    found = message(lambda x, w, caches: experts(routes(x, w), x, lambda rows, e: x))
    assert found == "experts: the body must return routed rows [R, width], it returned [T, 16]"


def test_sum_of_experts_has_the_residuals_shape():
    found = message(lambda x, w, caches: linear(x, w.y[8, 16]) + experts(routes(x, w), x, lambda r, e: expert(r, w[e])))
    assert found == "add: left is [T, 8], right is [T, 16]"


def test_slice_and_concat():
    found = message(lambda x, w, caches: x[..., 4:4])
    assert found == "slice: x is [T, 16]: it has no columns 4 to 4"
    found = message(lambda x, w, caches: x[3])
    assert found == "embed[T, 16]: only x[..., begin:end] can be taken, not 3"
    found = message(lambda x, w, caches: concat(heads(x, w), x))
    assert found == "concat: parts are [T, 4, 8], [T, 16]: only their last dims may differ"


def test_head_linear_needs_a_matrix_for_each_head():
    found = message(lambda x, w, caches: head_linear(heads(x, w), w.up[4, 5, 7]))
    problem = "they must be [T, heads, in] and [heads, out, in]"
    assert found == f"head_linear: x is [T, 4, 8], weight layers.3.up.weight[4, 5, 7]: {problem}"


def test_sinks_are_one_a_head():
    found = message(
        lambda x, w, caches: attend(heads(x, w), *cached(x, w, caches).values(), scale=1.0, sinks=w.sinks[3])
    )
    assert found == "attend: sinks layers.3.sinks[3] must be [4]"


def test_joined_weights_are_cut_into_what_they_hold():
    assert message(lambda x, w, caches: w.qkv[24, 16].split(8, 8)) == (
        "weight layers.3.qkv[24, 16]: dim 0 is not [8, 8] in sum"
    )
    found = message(lambda x, w, caches: w.gate_up[7, 16].interleaved(2))
    assert found == "weight layers.3.gate_up[7, 16]: rows are not 2 views"
    found = message(lambda x, w, caches: w.both[8, 16].interleaved(2)[0].split(2, 2))
    assert found == "weight layers.3.both[4, 16]: only whole matrices can be cut"


def test_shape_error_is_a_graph_error():
    assert issubclass(ShapeError, GraphError)
