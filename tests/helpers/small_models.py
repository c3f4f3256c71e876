"""Small models for the compiler's tests, and their weights packed as a loader would."""

import formats
import gguf
import numpy as np
from families import FAMILIES, family

from ellm.dsl import (
    attend,
    concat,
    embed,
    experts,
    input_rows,
    linear,
    logits,
    rms_norm,
    rope,
    route,
    sigmoid,
    swiglu,
    trace,
)
from ellm.dsl.tensor import Rope
from ellm.kernels.formats import FORMATS
from ellm.models import from_config

ROPE = Rope((1.0, 0.5, 0.25, 0.125))


def config(architecture="LlamaForCausalLM", **overrides) -> dict:
    """config.json of a model whose sizes are no multiples of a tile."""
    return {
        "architectures": [architecture],
        "vocab_size": 101,
        "hidden_size": 72,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "sliding_window": None,
        **SIZES.get(architecture, family(architecture).config),
        **overrides,
    }


LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 8,
    "v_head_dim": 28,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
}
SIZES = {
    "Qwen3MoeForCausalLM": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40},
    "MixtralForCausalLM": {"num_local_experts": 3, "num_experts_per_tok": 1},
    "DeepseekV2ForCausalLM": {**LATENT, "n_routed_experts": 6, "q_lora_rank": None},
    "DeepseekV3ForCausalLM": {**LATENT, "n_routed_experts": 12, "q_lora_rank": 24, "n_group": 4, "topk_group": 2},
    "GptOssForCausalLM": {"num_local_experts": 7, "num_experts_per_tok": 4, "sliding_window": 16},
}
"""What the configs of some architectures add; the others what their record says."""
EXPERTS = [record.architecture for record in FAMILIES if record.experts]


def graph(architecture="LlamaForCausalLM", **overrides):
    return from_config(config(architecture, **overrides)).graph()


def one_layer(tokens, w, caches):
    """A model with one of everything, written out."""
    x = embed(tokens, w.embed[50, 16])
    a = rms_norm(x, w.layers[0].norm[16], 1e-5)
    q = rms_norm(linear(a, w.layers[0].q[4, 8, 16]), w.layers[0].q_norm[8], 1e-5)
    kv = caches[0].append(k=rope(linear(a, w.layers[0].k[2, 8, 16]), ROPE), v=linear(a, w.layers[0].v[2, 8, 16]))
    o = attend(rope(q, ROPE), kv["k"], kv["v"], scale=0.5, window=3)
    x = x + linear(o, w.layers[0].o[16, 4, 8], bias=True)
    m = rms_norm(x, w.layers[0].mlp_norm[16], 1e-5)
    h = swiglu(linear(m, w.layers[0].gate[40, 16]), linear(m, w.layers[0].up[40, 16]))
    x = x + linear(h, w.layers[0].down[16, 40])
    return logits(rms_norm(x, w.norm[16], 1e-5), w.head[50, 16])


def unusual(tokens, w, caches):
    """A model that matches few patterns: two attends on one cache, parallel branches, a gate that is added, a last
    linear behind the final norm."""
    x = embed(tokens, w.embed[50, 16])
    kv = caches[0].append(k=rope(linear(x, w.k[2, 8, 16]), ROPE), v=linear(x, w.v[2, 8, 16]))
    a = rms_norm(x, w.norm[16], 1e-5)
    near = attend(linear(a, w.near[4, 8, 16]), kv["k"], kv["v"], scale=0.3, window=5)
    far = attend(rope(linear(a, w.far[2, 8, 16]), ROPE), kv["k"], kv["v"], scale=0.3)
    y = linear(near, w.near_out[16, 4, 8]) + linear(far, w.far_out[16, 2, 8])
    y = y + swiglu(linear(a, w.gate[16, 16]), linear(x, w.up[16, 16]))
    return logits(linear(rms_norm(a + y, w.last_norm[16], 1e-5), w.last[24, 16]), w.head[50, 24])


def sparse(tokens, w, caches):
    """Experts in uncommon places: rows to route that others read too, two sets of experts on one choice, a sum without
    residual, scores from elsewhere, joined gate and up projections."""
    x = embed(tokens, w.embed[50, 16])
    a = rms_norm(x, w.norm[16], 1e-5)
    y = x + a
    routes = route(sigmoid(linear(x, w.gate[7, 16])), 3, normalize=True)

    def one(rows, e):
        gate, up = w.one[e].gate_up[80, 16].split(40, 40)
        return linear(swiglu(linear(rows, gate), linear(rows, up)), w.one[e].down[16, 40])

    def other(rows, e):
        gate, up = w.other.gate_up[e, 16, 2 * 8].transposed.interleaved(2)
        return linear(swiglu(linear(rows, gate, bias=True), linear(rows, up, bias=True)), w.other.down[e, 16, 8])

    z = experts(routes, a, one) + experts(routes, y, other)
    return logits(rms_norm(y + z, w.last_norm[16], 1e-5), w.head[50, 16])


def joined(tokens, w, caches):
    """Heads put together of a slice, of a part twice that is read elsewhere too, and of two that need no copy."""
    x = embed(tokens, w.embed[50, 16])
    a, b = linear(x, w.a[4, 12, 16]), linear(x, w.b[4, 4, 16])
    heads = concat(a[..., :8], b, b, rope(a[..., 4:], ROPE), rms_norm(b, w.last[4], 1e-5))
    return logits(x + linear(heads, w.out[16, 4, 28]), w.head[50, 16])


def given(tokens, w, caches):
    """A model that also reads what is given of each row: plainly, normed, and as a residual."""
    x = input_rows(tokens, 16)
    y = x + linear(rms_norm(x, w.norm[16], 1e-5) + embed(tokens, w.embed[50, 16]), w.up[16, 16])
    return logits(rms_norm(y + linear(x, w.last[16, 16]), w.last_norm[16], 1e-5), w.head[50, 16])


def one_layer_graph():
    return trace(one_layer, 1024)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 to bf16 bits, nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def random_weights(program, seed=0) -> dict[str, np.ndarray]:
    """Name -> f32 values, exact in bf16, for every source of the program, experts stacked."""
    random = np.random.default_rng(seed)
    found = {}
    for entry in program.weights:
        for source in entry.sources:
            many = "{expert}" in source.name
            shape = [entry.experts, *source.shape] if many else source.shape
            vector = entry.layout == "vector"
            depth = shape[-2] if source.transposed and not source.head_rows else shape[-1]
            values = random.normal(0, 1.0 if vector else 1.5 / np.sqrt(depth), shape) + vector
            bits = to_bf16(values).astype(np.uint32) << 16
            found.setdefault(source.name, bits.view(np.float32))
    return found


def packed_region(program, weights) -> np.ndarray:
    """The weights region as bytes at a page-aligned address; every weight in bf16 or as the gguf package quantizes."""
    memory = np.zeros(program.weights_bytes + 4096, np.uint8)
    region = memory[-memory.ctypes.data % 4096 :][: program.weights_bytes]
    for entry in program.weights:
        for number in range(entry.experts):
            sources = [_matrix(weights[source.name], entry, source, number) for source in entry.sources]
            data = _packed(entry, sources).tobytes()
            assert len(data) <= (entry.bank_stride or entry.bytes)
            begin = entry.offset + number * entry.bank_stride
            region[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
    return region


def _matrix(values, entry, source, number) -> np.ndarray:
    """Rows that the runs of matrix `number` of a bank count in."""
    if "{expert}" in source.name or source.stacked:
        values = values[number]
    if source.transposed:
        values = values.T
    if source.head_rows and source.transposed:
        begin = number * source.head_rows + source.first_k
        return values[:, begin : begin + entry.k]
    return values[number * source.head_rows :]


def _packed(entry, sources) -> np.ndarray:
    if entry.layout == "constant":
        return np.array(entry.values, np.float32)
    if entry.layout == "vector":
        out = np.zeros((entry.bank_stride or entry.bytes) // 4, np.float32)
        for source, first, count, position, *step in entry.runs:
            out[position : position + count] = sources[source][_taken(first, count, *step)]
        return out
    n_tiles, k_tiles = entry.n_tiles, entry.k_tiles
    out = np.zeros((16 * n_tiles, 32 * k_tiles), np.float32)
    for source, first, count, column, *step in entry.runs:
        out[column : column + count, : entry.k] = sources[source][_taken(first, count, *step)]
    if entry.format != "bf16":
        name = FORMATS[entry.format].stored.dtype
        return formats.pack_blocks(name, gguf.quants.quantize(out, gguf.GGMLQuantizationType[name]))
    return to_bf16(out).reshape(n_tiles, 16, k_tiles, 16, 2).transpose(0, 2, 3, 1, 4)


def _taken(first, count, step=1) -> slice:
    return slice(first, first + (count - 1) * step + 1, step)
