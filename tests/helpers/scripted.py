"""Models that say what a test wrote down: each token's successor is fixed."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import tiny
from tokenizers import AddedToken, Tokenizer


def write_scripted(
    folder: Path, *scripts: list[str], template: str, special=(), added=(), eos: str, context: int = 1024
) -> Path:
    """A folder whose model says script[i + 1] after script[i] of each script, and then that for ever.

    The words of a script are tokens, each of which has one successor; `script[0]` is what a prompt ends with.
    `special` and `added` are tokens of tiny.write_tokenizer's vocabulary besides; a word may be a text of its own.
    """
    sizes = {"hidden_size": 352, "vocab": 331, "head_dim": 32, "max_position_embeddings": context}
    tiny.write_checkpoint(folder, layers=1, **sizes)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    pairs = [[backend.token_to_id(word) for word in pair] for script in scripts for pair in pairwise(script)]
    assert all(None not in pair for pair in pairs) and len({first for first, _ in pairs}) == len(pairs), scripts
    backend.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    shapes = tiny.shapes(config)
    weights = {name: np.full(shape, float(name.endswith("norm.weight")), np.float32) for name, shape in shapes.items()}
    names = np.arange(config["vocab_size"])
    weights["model.embed_tokens.weight"][names, names] = 1
    after = names.copy()
    for word, following in pairs:
        after[word] = following
    weights["lm_head.weight"][after, names] = 1
    tiny.write_safetensors(
        folder / "model.safetensors", {name: tiny.to_bf16(values) for name, values in weights.items()}
    )
    for file, change in (
        ("tokenizer_config.json", {"chat_template": template, "eos_token": eos}),
        ("generation_config.json", {"eos_token_id": backend.token_to_id(eos)}),
    ):
        settings = json.loads((folder / file).read_text()) | change
        (folder / file).write_text(json.dumps(settings))
    return folder
