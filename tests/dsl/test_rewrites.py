"""Where a pattern does not hold, a rewrite leaves the graph alone; golden texts (test_traces.py) show where it does."""

import pytest
from small_models import ROPE, one_layer_graph

from ellm.dsl import (
    LoweringError,
    Rope,
    attend,
    compile,
    embed,
    experts,
    linear,
    logits,
    rms_norm,
    rope,
    route,
    softmax,
    swiglu,
    trace,
)
from ellm.dsl.rewrite import rewrite


def fused_ops(body) -> list[str]:
    """Operators of the fused graph of `body(x, w, cache)` with x [T, 16]."""

    def model(tokens, w, caches):
        return logits(body(embed(tokens, w.embed[50, 16]), w, caches[0]), w.head[50, 16])

    return [node.op for _, node in rewrite(trace(model, 64)).items()][2:-2]


def attention(x, w, cache, *, q=None, k=None, v=None, read_q=None):
    q = linear(x, w.q[4, 8, 16]) if q is None else q
    k = linear(x, w.k[2, 8, 16]) if k is None else k
    v = linear(x, w.v[2, 8, 16]) if v is None else v
    kv = cache.append(k=k, v=v)
    return linear(attend(q, kv["k"], kv["v"], scale=1.0), w.o[16, 4, 8])


def test_plain_attention_without_rope_or_norm_is_joined():
    assert fused_ops(attention) == ["qkv", "attend", "linear"]


def test_heads_of_which_the_first_dims_are_rotated_are_joined():
    def body(x, w, cache):
        part = Rope((1.0, 0.5))
        return attention(x, w, cache, q=rope(linear(x, w.q[4, 8, 16]), part), k=rope(linear(x, w.k[2, 8, 16]), part))

    assert fused_ops(body) == ["angles", "qkv", "attend", "linear"]


@pytest.mark.parametrize(
    "different",
    [
        lambda x, w: {"q": linear(rms_norm(x, w.other[16], 1e-6), w.q[4, 8, 16])},
        lambda x, w: {"q": rope(linear(x, w.q[4, 8, 16]), ROPE)},
        lambda x, w: {
            "q": rope(linear(x, w.q[4, 8, 16]), ROPE, interleaved=True),
            "k": rope(linear(x, w.k[2, 8, 16]), ROPE, interleaved=True),
        },
        lambda x, w: {"v": rms_norm(linear(x, w.v[2, 8, 16]), w.v_norm[8], 1e-6)},
        lambda x, w: {"k": (lambda k: k + k)(linear(x, w.k[2, 8, 16]))},
        lambda x, w: {
            "q": rope(linear(x, w.q[4, 8, 16]), ROPE),
            "k": rope(linear(x, w.k[2, 8, 16]), Rope((1.0, 0.5))),
        },
        lambda x, w: {
            "q": rms_norm(linear(x, w.q[4, 8, 16]), w.q_norm[8], 1e-6),
            "k": rms_norm(linear(x, w.k[2, 8, 16]), w.k_norm[8], 1e-5),
        },
    ],
    ids=[
        "q of another input",
        "rope on q only",
        "interleaved rope",
        "norm on v",
        "k added to itself",
        "two ropes",
        "two epsilons",
    ],
)
def test_projections_that_one_kernel_cannot_do_stay_apart(different):
    assert "qkv" not in fused_ops(lambda x, w, cache: attention(x, w, cache, **different(x, w)))


def test_values_of_another_width_or_within_the_keys_are_not_joined():
    def body(x, w, cache, v):
        kv = cache.append(k=linear(x, w.k[2, 8, 16]), v=v)
        return linear(attend(linear(x, w.q[4, 8, 16]), kv["k"], kv["v"], scale=1.0), w.o[16, 4, 6])

    assert "append" in fused_ops(lambda x, w, cache: body(x, w, cache, linear(x, w.v[2, 6, 16])))
    assert "append" in fused_ops(lambda x, w, cache: body(x, w, cache, 6))


def expert(rows, w):
    return linear(swiglu(linear(rows, w.gate[8, 16]), linear(rows, w.up[8, 16])), w.down[16, 8])


def test_many_workers_share_the_norm_of_rows_and_keep_that_of_logits_folded():
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        x = x + attention(rms_norm(x, w.norm[16], 1e-6), w, caches[0])
        return logits(rms_norm(x, w.last_norm[16], 1e-6), w.head[50, 16])

    def ops(workers: int) -> list[tuple[str, bool]]:
        graph = rewrite(trace(model, 64), workers=workers)
        return [(node.op, "norm" in node.weights) for _, node in graph.items()][2:]

    products = [("attend", False), ("linear", False), ("gather", False), ("logits", True)]
    assert ops(8) == [("qkv", True), *products]
    assert ops(126) == [("rms_norm", False), ("qkv", False), *products]


def mixture(x, w, rows):
    routes = route(softmax(linear(rows, w.router[4, 16])), 2)
    return experts(routes, rows, lambda rows, e: expert(rows, w.experts[e]))


def test_sum_of_experts_starts_with_what_it_is_added_to():
    def body(x, w, cache):
        return x + mixture(x, w, rms_norm(x, w.norm[16], 1e-6))

    assert fused_ops(body) == ["rms_norm", "linear", "route", "dispatch", "gate_up", "linear", "combine"]


def test_sum_of_experts_that_is_read_twice_is_added_apart():
    def body(x, w, cache):
        y = mixture(x, w, x)
        return linear(x + y, w.z[16, 16]) + y

    assert fused_ops(body)[-3:] == ["combine", "add", "linear"]


def test_scores_with_another_reader_are_refused():
    def body(x, w, cache):
        scores = softmax(linear(x, w.router[16, 16]))
        return scores + experts(route(scores, 2), x, lambda rows, e: expert(rows, w.experts[e]))

    def model(tokens, w, caches):
        return logits(body(embed(tokens, w.embed[50, 16]), w, caches[0]), w.head[50, 16])

    with pytest.raises(LoweringError, match=r"softmax: no kernel computes this of \[T, 16\] here$"):
        compile(trace(model, 64), context=64)


def test_cache_read_by_two_attends_is_not_joined():
    def body(x, w, cache):
        kv = cache.append(k=linear(x, w.k[2, 8, 16]), v=linear(x, w.v[2, 8, 16]))
        a = attend(linear(x, w.q[4, 8, 16]), kv["k"], kv["v"], scale=1.0)
        b = attend(linear(x, w.p[4, 8, 16]), kv["k"], kv["v"], scale=1.0)
        return linear(a, w.oa[16, 4, 8]) + linear(b, w.ob[16, 4, 8])

    assert "qkv" not in fused_ops(body)


def test_projection_with_a_second_reader_is_not_joined():
    def body(x, w, cache):
        q = linear(x, w.q[4, 8, 16])
        return attention(x, w, cache, q=q) + linear(q, w.again[16, 4, 8])

    assert "qkv" not in fused_ops(body)


def test_gate_up_needs_one_input_and_readers_that_take_bf16():
    def two_inputs(x, w, cache):
        y = linear(x, w.y[16, 16])
        return linear(swiglu(linear(x, w.gate[40, 16]), linear(y, w.up[40, 16])), w.down[16, 40])

    def added(x, w, cache):
        return x + swiglu(linear(x, w.gate[16, 16]), linear(x, w.up[16, 16]))

    assert "swiglu" in fused_ops(two_inputs)
    assert "swiglu" in fused_ops(added)


def test_norm_with_another_reader_stays():
    def body(x, w, cache):
        a = rms_norm(x, w.norm[16], 1e-6)
        return a + linear(a, w.o[16, 16])

    assert fused_ops(body) == ["rms_norm", "linear"]


def test_linear_that_is_read_twice_is_not_folded_into_a_sum():
    def body(x, w, cache):
        y = linear(x, w.y[16, 16])
        return linear(x + y, w.z[16, 16]) + y

    assert fused_ops(body) == ["linear", "add", "linear"]


def test_gather_moves_above_row_wise_operators_only():
    def body(x, w, cache):
        return linear(rms_norm(x + linear(x, w.y[16, 16]), w.norm[16], 1e-6), w.z[16, 16])

    assert fused_ops(body) == ["linear", "gather"]  # the gather itself, then the last linear and the logits


def test_what_the_logits_do_not_need_is_removed():
    def body(x, w, cache):
        cache.append(k=linear(x, w.k[2, 8, 16]), v=linear(x, w.v[2, 8, 16]))
        return x

    assert fused_ops(body) == []


def test_rewriting_leaves_the_traced_graph_alone():
    graph = one_layer_graph()
    before = dict(graph.nodes(data="node"))
    rewrite(graph)
    assert dict(graph.nodes(data="node")) == before
