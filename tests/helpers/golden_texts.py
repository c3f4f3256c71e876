"""Golden texts of graphs; `python tests/helpers/golden_texts.py` writes them anew: read the difference."""

from collections.abc import Callable
from pathlib import Path

import small_models

from ellm.dsl import compile, rewrite, show, trace

FOLDER = Path(__file__).parents[1] / "dsl" / "golden"


def after(*passes: str) -> str:
    """Text of the one-layer model after these passes alone."""
    graph = small_models.one_layer_graph()
    for name in passes:
        getattr(rewrite, name)(graph)
    return show.text(graph)


def fused(architecture: str, **overrides) -> str:
    return show.text(rewrite.rewrite(small_models.graph(architecture, **overrides)))


def operators(architecture: str, fuse: bool, **overrides) -> str:
    """One line per operator of the task graph: kernel, what it waits for, tasks, and where its value lies."""
    graph = small_models.graph(architecture, num_hidden_layers=1, **overrides)
    program = compile(graph, context=512, row_block=16, fuse=fuse)
    lines = []
    for number, operator in enumerate(program.operators):
        after = " ".join(str(source) for source in operator.after)
        lines.append(f"{number} {operator.name}: {operator.kernel} after [{after}] tiles {operator.tiles}\n")
    plan = program.plan
    for buffer in plan.buffers + plan.shared_buffers:
        lines.append(f"{buffer.offset} + {buffer.bytes} {buffer.name}\n")
    return "".join(lines)


TEXTS: dict[str, Callable[[], str]] = {
    "one_layer": lambda: show.text(small_models.one_layer_graph()),
    "one_layer.share_equal": lambda: after("share_equal"),
    "one_layer.hoist_gather": lambda: after("share_equal", "hoist_gather"),
    "one_layer.join_qkv": lambda: after("share_equal", "join_qkv"),
    "one_layer.join_gate_up": lambda: after("share_equal", "join_gate_up"),
    "one_layer.fold_norm": lambda: after("share_equal", "fold_norm"),
    "one_layer.fold_residual": lambda: after("share_equal", "fold_residual"),
    "one_layer.fused": lambda: show.text(rewrite.rewrite(small_models.one_layer_graph())),
    "llama": lambda: show.text(small_models.graph("LlamaForCausalLM", num_hidden_layers=1)),
    "llama.fused": lambda: fused("LlamaForCausalLM"),
    "mistral.fused": lambda: fused("MistralForCausalLM", sliding_window=128),
    "qwen2.fused": lambda: fused("Qwen2ForCausalLM"),
    "qwen3": lambda: show.text(small_models.graph("Qwen3ForCausalLM", num_hidden_layers=1)),
    "qwen3.operators": lambda: operators("Qwen3ForCausalLM", fuse=False),
    "qwen3.fused.operators": lambda: operators("Qwen3ForCausalLM", fuse=True),
    "qwen3_moe": lambda: show.text(small_models.graph("Qwen3MoeForCausalLM", num_hidden_layers=1)),
    "qwen3_moe.fused": lambda: fused("Qwen3MoeForCausalLM", mlp_only_layers=[0]),
    "qwen3_moe.fused.operators": lambda: operators("Qwen3MoeForCausalLM", fuse=True),
    "mixtral.fused": lambda: fused("MixtralForCausalLM", num_hidden_layers=1),
    "deepseek_v2.fused": lambda: fused("DeepseekV2ForCausalLM"),
    "deepseek_v3": lambda: show.text(small_models.graph("DeepseekV3ForCausalLM")),
    "deepseek_v3.fused": lambda: fused("DeepseekV3ForCausalLM"),
    "deepseek_v3.fused.operators": lambda: operators("DeepseekV3ForCausalLM", fuse=True, first_k_dense_replace=0),
    "glm4_moe.fused": lambda: fused("Glm4MoeForCausalLM", num_hidden_layers=2),
    "gpt_oss.fused": lambda: fused("GptOssForCausalLM"),
    "gpt_oss.fused.operators": lambda: operators("GptOssForCausalLM", fuse=True),
    "sparse.fused": lambda: show.text(rewrite.rewrite(trace(small_models.sparse, 1024))),
    "qwen3.fused": lambda: fused("Qwen3ForCausalLM", tie_word_embeddings=True),
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in TEXTS.items():
        (FOLDER / f"{name}.txt").write_text(make())
