"""Names, shapes and stored types of a model's tensors, from its config.json: those of the checkpoints on the hub."""

from families import Shapes, family, linear, mlp, says, under

BLOCK = 128  # rows and columns that share an fp8 scale
GROUP = 32  # values that share an mxfp4 scale


def shapes(config: dict) -> Shapes:
    """Name -> shape of every tensor before quantisation; gpt-oss has its experts as [experts, in, out]."""
    vocab, hidden, layers = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    found: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        found |= under(f"model.layers.{layer}", layer_shapes(config, layer))
    found["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", family(config["model_type"]).tied):
        found["lm_head.weight"] = (vocab, hidden)
    for layer in range(layers, layers + config.get("num_nextn_predict_layers", 0)):
        extra: Shapes = {"enorm.weight": (hidden,), "hnorm.weight": (hidden,), "eh_proj.weight": (hidden, 2 * hidden)}
        extra["shared_head.norm.weight"] = (hidden,)
        found |= under(f"model.layers.{layer}", extra | layer_shapes(config, layer))
    return found


def stored(config: dict) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> safetensors type and shape of every tensor in the precision that the config says."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes(config).items():
        kind = number_format(config, name)
        if kind == "fp8":
            found[name] = ("F8_E4M3", shape)
            found[f"{name}_scale_inv"] = ("F32", tuple(-(-size // BLOCK) for size in shape))
        elif kind == "mxfp4":
            experts, k, n = shape
            found[f"{name}_blocks"] = ("U8", (experts, n, k // GROUP, GROUP // 2))
            found[f"{name}_scales"] = ("U8", (experts, n, k // GROUP))
        else:
            found[name] = (kind, shape)
    return found


def number_format(config: dict, name: str) -> str:
    """fp8, mxfp4, or the safetensors type of an unquantised tensor."""
    quantization = config.get("quantization_config", {})
    method, kept = quantization.get("quant_method"), quantization.get("modules_to_not_convert") or ()
    if method == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return "mxfp4"
    matrix = name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and not name.endswith("eh_proj.weight")
    if method == "fp8" and matrix and not any(module in name for module in kept):
        return "fp8"
    if name.endswith("e_score_correction_bias"):
        return "F32"
    return "F16" if "float16" in (config.get("torch_dtype"), config.get("dtype")) else "BF16"


def layer_shapes(config: dict, layer: int) -> Shapes:
    hidden, record = config["hidden_size"], family(config["model_type"])
    found: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    found |= under("self_attn", latent_attention(config) if is_latent(config) else attention(config))
    if record.experts is None or not is_sparse(config, layer):
        found |= under("mlp", mlp(hidden, config["intermediate_size"], config.get("mlp_bias", False)))
    else:
        found |= record.experts(config)
    if says(config, record.head_norms):
        head_dim = config["head_dim"]
        found |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return found


def is_latent(config: dict) -> bool:
    """Whether attention is to latents."""
    return "kv_lora_rank" in config


def is_sparse(config: dict, layer: int) -> bool:
    """Whether a layer of a family with experts has them."""
    step = config.get("decoder_sparse_step", 1)
    dense = layer in config.get("mlp_only_layers", ()) or layer < config.get("first_k_dense_replace", 0)
    return not dense and (layer + 1) % step == 0


def attention(config: dict) -> Shapes:
    hidden, heads, record = config["hidden_size"], config["num_attention_heads"], family(config["model_type"])
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    qkv_biased = says(config, record.qkv_bias)
    found = {
        **linear("q_proj", heads * head_dim, hidden, qkv_biased),
        **linear("k_proj", kv_heads * head_dim, hidden, qkv_biased),
        **linear("v_proj", kv_heads * head_dim, hidden, qkv_biased),
        **linear("o_proj", hidden, heads * head_dim, says(config, record.o_bias)),
    }
    return found | {"sinks": (heads,)} if record.sinks else found


def latent_attention(config: dict) -> Shapes:
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    biased, q_rank = config.get("attention_bias", False), config["q_lora_rank"]
    found: Shapes = {}
    if q_rank is None:
        found |= linear("q_proj", heads * (nope + rope), hidden)
    else:
        found |= linear("q_a_proj", q_rank, hidden, biased)
        found |= {"q_a_layernorm.weight": (q_rank,), **linear("q_b_proj", heads * (nope + rope), q_rank)}
    found |= linear("kv_a_proj_with_mqa", rank + rope, hidden, biased)
    found |= {"kv_a_layernorm.weight": (rank,), **linear("kv_b_proj", heads * (nope + value), rank)}
    return found | linear("o_proj", hidden, heads * value, biased)
