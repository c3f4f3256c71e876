"""The operators of a graph: what each takes, the rule that gives its shape, and how its value is stored.

A rule gets a node and its input nodes and returns the shape of the result; it raises ShapeError when they do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ellm.dsl.errors import ShapeError
from ellm.dsl.node import Node
from ellm.dsl.tensor import Dim, L, R, Rope, Shape, T, Weight, features, text

Rule = Callable[[Node, Sequence[Node]], Shape]


class Storage(Enum):
    """What the value of an operator is stored as."""

    F32 = "f32"
    BF16 = "bf16: its rewriting saw to it that all that read it round it to that anyway"
    EITHER = "bf16 if all that read it round it to that anyway, unless a residual is added to it"
    VIEW = "nothing: it lies in what the operator reads"


class Effect(Enum):
    """What an operator does beside making its value."""

    NONE = "nothing"
    APPENDS = "rows are appended to a cache; no two do that to the same one"
    ANSWERS = "its value is what the model is asked for: a graph ends in it"


class Exempt(Enum):
    """Whose weights checkpoints of fewer bits keep in more."""

    NONE = "nobody's"
    OWN = "its own"
    INPUT = "those of what computes its input"


@dataclass(frozen=True)
class Form:
    """What an operator is made of; names that end in `?` are optional, one that ends in `...` stands for many.

    `rounded` are the inputs that it rounds to bf16 itself, and so can read in bf16: the A operand of a matrix product,
    if no norm stands in front of it. One that `passes` rows on rounds them if all that read them there do.
    """

    rule: Rule
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    stores: Storage = Storage.F32
    rounded: tuple[str, ...] = ()
    passes: bool = False
    turns: bool = False  # what it rounds, before that, where keys and values are in int8
    effect: Effect = Effect.NONE
    exempt: Exempt = Exempt.NONE

    @property
    def takes_norm(self) -> bool:
        """Whether a norm of its first input can be part of it."""
        return "norm?" in self.weights

    def rounds(self, node: Node, source: int) -> bool:
        """Whether a node of this form rounds what node `source` gives it, wherever it reads that."""
        roles = [self.inputs[min(i, len(self.inputs) - 1)] for i, key in enumerate(node.inputs) if key == source]
        return "norm" not in node.weights and all(role in self.rounded for role in roles)


def cache_shapes(node: Node) -> tuple[Shape, Shape]:
    """Shapes [S, kv heads, dim] of the keys and the values that an `append`, `qkv` or `expand_latent` node leaves.

    Raises ShapeError for another one.
    """
    if node.op == "qkv":
        heads, dim, _ = node.weights["k"].shape
        return ((node.attributes["rows"], heads, dim),) * 2
    if node.op == "expand_latent":
        return node.shape, (*node.shape[:2], node.weights["v"].shape[1])
    if node.op != "append":
        raise ShapeError(f"keys and values must come from cache.append, not from {node.op}")
    return node.shape, (*node.shape[:2], node.attributes.get("value_dim", node.shape[2]))


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def _rows(shape: Shape) -> Dim:
    _expect(len(shape) > 0 and isinstance(shape[0], Dim), f"{text(shape)} has no rows: its first dim must be T")
    assert isinstance(shape[0], Dim)
    return shape[0]


def _tokens(node: Node, inputs: Sequence[Node]) -> Shape:
    return (T,)


def _embed(node: Node, inputs: Sequence[Node]) -> Shape:
    tokens, table = inputs[0].shape, node.weights["weight"]
    _expect(tokens == (T,), f"tokens are {text(tokens)}, must be [T]")
    _expect(len(table.shape) == 2, f"weight {table} must be [vocab, width]")
    return (T, table.shape[1])


def _input_rows(node: Node, inputs: Sequence[Node]) -> Shape:
    tokens, width = inputs[0].shape, node.attributes["width"]
    _expect(tokens == (T,), f"tokens are {text(tokens)}, must be [T]")
    _expect(width > 0, f"width is {width}, must be positive")
    return (T, width)


def _angles(node: Node, inputs: Sequence[Node]) -> Shape:
    rope: Rope = node.attributes["rope"]
    return (T, len(rope.inv_freq), 2)


def _rms_norm(node: Node, inputs: Sequence[Node]) -> Shape:
    x, weight = inputs[0].shape, node.weights["weight"]
    _rows(x)
    _expect(len(x) >= 2 and weight.shape == x[-1:], f"x is {text(x)}, weight {weight}: it must be {text(x[-1:])}")
    return x


def _contract(x: Shape, weight: Weight) -> tuple[int, ...]:
    """Output dims of `weight` when all dims of x after its rows are contracted."""
    _rows(x)
    if (x[0] == R) != (weight.experts > 0):
        problem = "has an expert's index, but x is no routed rows" if weight.experts else "needs the expert's index"
        raise ShapeError(f"x is {text(x)}, weight {weight}: it {problem}")
    _expect(weight.k_part is None, f"weight {weight}: a part of its contracted dims is for head_linear only")
    contracted = x[1:]
    fits = 0 < len(contracted) < len(weight.shape) and weight.shape[len(weight.shape) - len(contracted) :] == contracted
    _expect(fits, f"x is {text(x)}, weight {weight}: it must be [output dims..., {text(contracted)[1:-1]}]")
    return weight.shape[: len(weight.shape) - len(contracted)]


def _check_vector(node: Node, role: str, shape: Shape) -> None:
    if role in node.weights:
        weight = node.weights[role]
        _expect(weight.shape == shape, f"{role} {weight} must be {text(shape)}")


def _check_norm(node: Node, x: Shape) -> None:
    _check_vector(node, "norm", x[1:])
    if "norm" in node.weights:
        _expect("eps" in node.attributes, "a norm needs eps")


def _linear(node: Node, inputs: Sequence[Node]) -> Shape:
    x = inputs[0].shape
    output = _contract(x, node.weights["weight"])
    _check_vector(node, "bias", output)
    _check_norm(node, x)
    shape = (x[0], *output)
    if len(inputs) == 2:
        residual = inputs[1].shape
        weight = node.weights["weight"]
        _expect(residual == shape, f"residual is {text(residual)}, the product with {weight} {text(shape)}")
    return shape


def _logits(node: Node, inputs: Sequence[Node]) -> Shape:
    x, head = inputs[0].shape, node.weights["weight"]
    _expect(len(x) == 2 and x[0] == L, f"x is {text(x)}, weight {head}: x must be gathered rows [L, width]")
    _check_norm(node, x)
    return (L, *_contract(x, head))


def _gather(node: Node, inputs: Sequence[Node]) -> Shape:
    x = inputs[0].shape
    _expect(_rows(x) == T, f"x is {text(x)}: only step rows [T, ...] can be gathered")
    return (L, *x[1:])


def _rope(node: Node, inputs: Sequence[Node]) -> Shape:
    x, angles = inputs[0].shape, inputs[1].shape
    _expect(len(x) == 3 and x[0] == T, f"x is {text(x)}, must be [T, heads, head_dim]")
    _expect(inputs[1].op == "angles", f"angles come from {inputs[1].op}")
    rotary = 2 * features(angles)[0]
    _expect(rotary <= features(x)[-1], f"x is {text(x)}: its heads are smaller than the {rotary} rotated dims")
    return x


def _append(node: Node, inputs: Sequence[Node]) -> Shape:
    """The keys' shape; attribute value_dim only if the values differ from it."""
    k = inputs[0].shape
    if len(inputs) == 1:
        _expect(len(k) == 3 and k[0] == T, f"k is {text(k)}, must be [T, kv heads, dim]")
        value_dim = node.attributes.get("value_dim", 0)
        _expect(0 < value_dim <= features(k)[1], f"k is {text(k)}: {value_dim} of its dims cannot be the values")
    else:
        v = inputs[1].shape
        fits = len(k) == len(v) == 3 and k[0] == v[0] == T and k[1] == v[1]
        _expect(fits, f"k is {text(k)}, v is {text(v)}: both must be [T, kv heads, dim]")
        wanted = node.attributes.get("value_dim", k[2])
        _expect(v[2] == wanted, f"v is {text(v)}: its heads are said to have {wanted} dims")
    return (node.attributes["rows"], *k[1:])


def _expand_latent(node: Node, inputs: Sequence[Node]) -> Shape:
    """The keys' shape."""
    (cached,) = inputs
    keys, values = cache_shapes(cached)
    one = cached.op == "append" and len(cached.inputs) == 1 and keys[1] == 1
    _expect(one, f"keys {text(keys)} of {cached.op}: must be one a position, with the values in it")
    k, v = node.weights["k"], node.weights["v"]
    fits = len(k.shape) == len(v.shape) == 3 and k.shape[0] == v.shape[0] and k.shape[2] == v.shape[2] == values[2]
    _expect(fits, f"latents are {text(values)}: weights {k} and {v} must be [heads, dim, {values[2]}]")
    return (keys[0], k.shape[0], k.shape[1] + features(keys)[1] - k.shape[2])


def _attend(node: Node, inputs: Sequence[Node]) -> Shape:
    q, (keys, values) = inputs[0].shape, cache_shapes(inputs[1])
    _expect(len(q) == 3 and q[0] == T, f"q is {text(q)}, must be [T, heads, head_dim]")
    both = f"q is {text(q)}, keys and values are {text(keys)}"
    heads, kv_heads = features(q)[0], features(keys)[0]
    _expect(q[2] == keys[2], f"{both}: their head dims differ")
    _expect(heads % kv_heads == 0, f"{both}: {heads} heads are no multiple of {kv_heads} KV heads")
    cache = inputs[1].attributes["cache"]
    _expect(cache == node.attributes["cache"], f"keys and values of cache {cache}, must be {node.attributes['cache']}")
    _check_vector(node, "sinks", (heads,))
    return (*q[:2], values[2])


def _swiglu(node: Node, inputs: Sequence[Node]) -> Shape:
    gate, up = inputs[0].shape, inputs[1].shape
    _rows(gate)
    _expect(len(gate) == 2 and gate == up, f"gate is {text(gate)}, up is {text(up)}: both must be [T, width]")
    return gate


def _add(node: Node, inputs: Sequence[Node]) -> Shape:
    a, b = inputs[0].shape, inputs[1].shape
    _rows(a)
    _expect(a == b, f"left is {text(a)}, right is {text(b)}")
    return a


def _gate_up(node: Node, inputs: Sequence[Node]) -> Shape:
    x, gate, up = inputs[0].shape, node.weights["gate"], node.weights["up"]
    output = _contract(x, gate)
    fits = gate.shape == up.shape and len(output) == 1
    _expect(fits, f"x is {text(x)}: gate {gate} and up {up} must be [width, {text(x[1:])[1:-1]}]")
    _check_vector(node, "gate_bias", output)
    _check_vector(node, "up_bias", output)
    _check_norm(node, x)
    return (x[0], *output)


def _qkv(node: Node, inputs: Sequence[Node]) -> Shape:
    x = inputs[0].shape
    shapes = {role: _contract(x, node.weights[role]) for role in ("q", "k", "v")}
    q, k, v = shapes["q"], shapes["k"], shapes["v"]
    _expect(k == v and len(q) == len(k) == 2 and q[1] == k[1], f"q is {text(q)}, k is {text(k)}, v is {text(v)}")
    for role, shape in shapes.items():
        _check_vector(node, role + "_bias", shape)
    for role in ("q_norm", "k_norm"):
        _check_vector(node, role, q[1:])
        _expect(role not in node.weights or "head_eps" in node.attributes, "a head norm needs head_eps")
    _check_norm(node, x)
    if len(inputs) == 2:
        _rope(node, [Node("heads", (), shape=(T, *q)), inputs[1]])
    return (T, *q)


def _slice(node: Node, inputs: Sequence[Node]) -> Shape:
    x, begin, end = inputs[0].shape, node.attributes["begin"], node.attributes["end"]
    _rows(x)
    fits = len(x) >= 2 and 0 <= begin < end <= features(x)[-1]
    _expect(fits, f"x is {text(x)}: it has no columns {begin} to {end}")
    return (*x[:-1], end - begin)


def _concat(node: Node, inputs: Sequence[Node]) -> Shape:
    shapes = [part.shape for part in inputs]
    _rows(shapes[0])
    fits = len(shapes) > 1 and all(len(shape) >= 2 and shape[:-1] == shapes[0][:-1] for shape in shapes)
    _expect(fits, f"parts are {', '.join(text(shape) for shape in shapes)}: only their last dims may differ")
    return (*shapes[0][:-1], sum(features(shape)[-1] for shape in shapes))


def _head_linear(node: Node, inputs: Sequence[Node]) -> Shape:
    x, weight = inputs[0].shape, node.weights["weight"]
    fits = len(x) == 3 and x[0] == T and len(weight.shape) == 3 and (x[1], x[2]) == (weight.shape[0], weight.shape[2])
    _expect(fits, f"x is {text(x)}, weight {weight}: they must be [T, heads, in] and [heads, out, in]")
    return (T, *weight.shape[:2])


def _scores(node: Node, inputs: Sequence[Node]) -> Shape:
    x = inputs[0].shape
    _expect(len(x) == 2 and x[0] == T, f"x is {text(x)}, must be [T, experts]")
    return x


def _route(node: Node, inputs: Sequence[Node]) -> Shape:
    scores, attributes = _scores(node, inputs), node.attributes
    (count,), k = features(scores), attributes["k"]
    _expect(0 < k <= count, f"scores are {text(scores)}: cannot choose {k} of {count} experts")
    normalize = attributes["normalize"]
    _expect(normalize in ("none", "sum", "softmax"), f"normalize is {normalize!r}, must be none, sum or softmax")
    _check_vector(node, "bias", (count,))
    if "groups" in attributes:
        groups, keep, top = (attributes[name] for name in ("groups", "keep_groups", "group_top"))
        _expect(count % groups == 0, f"scores are {text(scores)}: {count} experts are not {groups} groups of one size")
        _expect(0 < keep <= groups, f"cannot keep {keep} of {groups} groups")
        size = count // groups
        _expect(k <= keep * size, f"cannot choose {k} experts of {keep} groups of {size}")
        _expect(top in (1, 2) and top <= size, f"group_top is {top}: a group of {size} has no such sum")
    return (T, k)


def _dispatch(node: Node, inputs: Sequence[Node]) -> Shape:
    routes, x = inputs
    _expect(routes.op == "route", f"routes come from {routes.op}, must come from route")
    _expect(len(x.shape) == 2 and x.shape[0] == T, f"x is {text(x.shape)}, must be [T, width]")
    return (R, *x.shape[1:])


def _combine(node: Node, inputs: Sequence[Node]) -> Shape:
    routes, y = inputs[:2]
    _expect(routes.op == "route", f"routes come from {routes.op}, must come from route")
    _expect(len(y.shape) == 2 and y.shape[0] == R, f"y is {text(y.shape)}, must be routed rows [R, width]")
    shape = (T, *y.shape[1:])
    if len(inputs) == 3:
        residual = inputs[2].shape
        _expect(residual == shape, f"residual is {text(residual)}, the experts' sum {text(shape)}")
    return shape


GRAMMAR: dict[str, Form] = {
    "tokens": Form(_tokens),
    "embed": Form(_embed, ("tokens",), ("weight",), exempt=Exempt.OWN),
    "input_rows": Form(_input_rows, ("tokens",), (), ("width",)),
    "angles": Form(_angles, (), (), ("rope",)),
    "rms_norm": Form(_rms_norm, ("x",), ("weight",), ("eps",), Storage.EITHER),
    "linear": Form(
        _linear, ("x", "residual?"), ("weight", "bias?", "norm?"), ("eps?",), Storage.EITHER, rounded=("x",)
    ),
    "head_linear": Form(_head_linear, ("x",), ("weight",), stores=Storage.EITHER, rounded=("x",)),
    "rope": Form(_rope, ("x", "angles"), (), ("interleaved?",), Storage.EITHER),
    "slice": Form(_slice, ("x",), (), ("begin", "end"), Storage.VIEW),
    "concat": Form(_concat, ("parts...",), stores=Storage.EITHER),
    "append": Form(_append, ("k", "v?"), (), ("cache", "rows", "value_dim?"), effect=Effect.APPENDS),
    "expand_latent": Form(_expand_latent, ("cache",), ("k", "v"), ("cache",)),
    "attend": Form(
        _attend,
        ("q", "cache"),
        ("sinks?",),
        ("cache", "scale", "window"),
        Storage.EITHER,
        rounded=("q", "cache"),  # where q, k and v are joined, both are one value
        turns=True,
    ),
    "swiglu": Form(_swiglu, ("gate", "up"), (), ("limit?", "alpha?")),
    "softmax": Form(_scores, ("x",)),
    "sigmoid": Form(_scores, ("x",)),
    "route": Form(
        _route,
        ("scores",),
        ("bias?",),
        ("k", "normalize", "scale", "groups?", "keep_groups?", "group_top?", "masked?", "score?"),
        exempt=Exempt.INPUT,
    ),
    "dispatch": Form(_dispatch, ("routes", "x"), rounded=("x",), passes=True),
    "combine": Form(_combine, ("routes", "y", "residual?")),
    "add": Form(_add, ("a", "b")),
    "gather": Form(_gather, ("x",)),
    "logits": Form(
        _logits, ("x",), ("weight", "norm?"), ("eps?",), rounded=("x",), effect=Effect.ANSWERS, exempt=Exempt.OWN
    ),
    # Made by rewriting only.
    "gate_up": Form(
        _gate_up,
        ("x",),
        ("gate", "up", "gate_bias?", "up_bias?", "norm?"),
        ("eps?", "limit?", "alpha?"),
        Storage.EITHER,
        rounded=("x",),
    ),
    "qkv": Form(
        _qkv,
        ("x", "angles?"),
        ("q", "k", "v", "q_bias?", "k_bias?", "v_bias?", "q_norm?", "k_norm?", "norm?"),
        ("cache", "rows", "head_eps?", "eps?"),
        Storage.BF16,
        rounded=("x",),
        effect=Effect.APPENDS,
    ),
}


def missing(form: tuple[str, ...], present: Sequence[str]) -> str | None:
    """Name what `present` lacks of a form, or has beyond it; None if it matches."""
    required = [name for name in form if not name.endswith("?")]
    allowed = {name.rstrip("?") for name in form}
    for name in required:
        if name not in present:
            return f"lacks {name}"
    extra = [name for name in present if name not in allowed]
    return f"has unknown {extra[0]}" if extra else None
