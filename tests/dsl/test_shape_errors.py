"""Operands that do not fit fail on the model's line, with both shapes and the checkpoint's name of the weight."""

import pytest

from ellm.dsl import GraphError, Rope, ShapeError, attend, embed, linear, logits, rms_norm, rope, swiglu, trace
from ellm.kernels.errors import InputError


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


def test_cache_needs_keys_and_values_of_one_shape():
    found = message(
        lambda x, w, caches: caches[0].append(k=linear(x, w.k_proj[2, 8, 16]), v=linear(x, w.v_proj[2, 4, 16]))
    )
    assert found == "append: k is [T, 2, 8], v is [T, 2, 4]: both must be [T, kv heads, head_dim]"


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


def test_shape_error_is_a_graph_error():
    assert issubclass(ShapeError, GraphError)
