"""Names, shapes and stored types of a model's tensors, from its config.json: those of the checkpoints on the hub."""

Shapes = dict[str, tuple[int, ...]]
BLOCK = 128  # rows and columns that share an fp8 scale
GROUP = 32  # values that share an mxfp4 scale


def shapes(config: dict) -> Shapes:
    """Name -> shape of every tensor before quantisation; gpt-oss has its experts as [experts, in, out]."""
    vocab, hidden, layers = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    found: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        found |= under(f"model.layers.{layer}", layer_shapes(config, layer))
    found["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", config["model_type"] == "smollm3"):
        found["lm_head.weight"] = (vocab, hidden)
    for layer in range(layers, layers + config.get("num_nextn_predict_layers", 0)):
        extra = {"enorm.weight": (hidden,), "hnorm.weight": (hidden,), "eh_proj.weight": (hidden, 2 * hidden)}
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
    matrix = name.endswith(("_proj.weight", "_proj_with_mqa.weight"))
    if method == "fp8" and matrix and not any(module in name for module in kept):
        return "fp8"
    if name.endswith("e_score_correction_bias"):
        return "F32"
    return "F16" if "float16" in (config.get("torch_dtype"), config.get("dtype")) else "BF16"


def layer_shapes(config: dict, layer: int) -> Shapes:
    hidden = config["hidden_size"]
    found: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    found |= under("self_attn", latent_attention(config) if "kv_lora_rank" in config else attention(config))
    if not is_sparse(config, layer):
        found |= under("mlp", mlp(hidden, config["intermediate_size"], config.get("mlp_bias", False)))
    else:
        found |= MOE[config["model_type"]](config)
    if config["model_type"] in ("qwen3", "qwen3_moe"):
        head_dim = config["head_dim"]
        found |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return found


def is_sparse(config: dict, layer: int) -> bool:
    """Whether a layer has experts."""
    if config["model_type"] not in MOE:
        return False
    step = config.get("decoder_sparse_step", 1)
    dense = layer in config.get("mlp_only_layers", ()) or layer < config.get("first_k_dense_replace", 0)
    return not dense and (layer + 1) % step == 0


def attention(config: dict) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    biased = config.get("attention_bias", False)
    qkv_biased = biased or config["model_type"] == "qwen2"
    found = {
        **linear("q_proj", heads * head_dim, hidden, qkv_biased),
        **linear("k_proj", kv_heads * head_dim, hidden, qkv_biased),
        **linear("v_proj", kv_heads * head_dim, hidden, qkv_biased),
        **linear("o_proj", hidden, heads * head_dim, biased),
    }
    return found | {"sinks": (heads,)} if config["model_type"] == "gpt_oss" else found


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


def qwen3_moe(config: dict) -> Shapes:
    hidden, experts = config["hidden_size"], config["num_experts"]
    found = linear("mlp.gate", experts, hidden)
    for expert in range(experts):
        found |= under(f"mlp.experts.{expert}", mlp(hidden, config["moe_intermediate_size"]))
    return found


def deepseek(config: dict) -> Shapes:
    hidden, experts, inner = config["hidden_size"], config["n_routed_experts"], config["moe_intermediate_size"]
    found = linear("mlp.gate", experts, hidden)
    if config["model_type"] == "deepseek_v3":
        found["mlp.gate.e_score_correction_bias"] = (experts,)
    for expert in range(experts):
        found |= under(f"mlp.experts.{expert}", mlp(hidden, inner))
    return found | under("mlp.shared_experts", mlp(hidden, inner * config["n_shared_experts"]))


def mixtral(config: dict) -> Shapes:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    found = linear("block_sparse_moe.gate", experts, hidden)
    for expert in range(experts):
        prefix = f"block_sparse_moe.experts.{expert}"
        found |= {**linear(f"{prefix}.w1", inner, hidden), **linear(f"{prefix}.w3", inner, hidden)}
        found |= linear(f"{prefix}.w2", hidden, inner)
    return found


def gpt_oss(config: dict) -> Shapes:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    return {
        **linear("mlp.router", experts, hidden, True),
        "mlp.experts.gate_up_proj": (experts, hidden, 2 * inner),
        "mlp.experts.gate_up_proj_bias": (experts, 2 * inner),
        "mlp.experts.down_proj": (experts, inner, hidden),
        "mlp.experts.down_proj_bias": (experts, hidden),
    }


def mlp(hidden: int, inner: int, biased: bool = False) -> Shapes:
    return {
        **linear("gate_proj", inner, hidden, biased),
        **linear("up_proj", inner, hidden, biased),
        **linear("down_proj", hidden, inner, biased),
    }


def linear(name: str, rows: int, columns: int, biased: bool = False) -> Shapes:
    weight: Shapes = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if biased else weight


def under(prefix: str, tensors: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in tensors.items()}


MOE = {
    "qwen3_moe": qwen3_moe,
    "deepseek_v3": deepseek,
    "deepseek_v2": deepseek,
    "mixtral": mixtral,
    "gpt_oss": gpt_oss,
}
