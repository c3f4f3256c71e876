"""The layer behind a model's own that predicts the token after the next: DeepSeek-V3, GLM-4.5."""

from __future__ import annotations

from dataclasses import replace

from ellm.dsl import Caches, Value, Weights, concat, embed, input_rows, linear, logits, rms_norm
from ellm.models.config import DecoderConfig
from ellm.models.layers import Block

__composites__ = True  # an error in one begins with the line of the model that calls it


def drafter(tokens: Value, w: Weights, caches: Caches, c: DecoderConfig, block: Block) -> Value:
    """The first layer behind a model's own, which predicts the token after the next (DeepSeek-V3, section 2.2).

    A row has a token and the final hidden state, after its norm, of the position before it; what it leaves as its own
    is such a state again, of the token's position. Embedding and head are the model's.
    """
    d, v, eps, layer = c.hidden_size, c.vocab_size, c.rms_norm_eps, c.num_hidden_layers
    c = replace(c, rotary=(*c.rotary, c.rotary[-1]), windows=(*c.windows, 0))
    own = w.model.layers[layer]
    token = rms_norm(embed(tokens, w.model.embed_tokens[v, d]), own.enorm[d], eps)
    x = linear(concat(token, rms_norm(input_rows(tokens, d), own.hnorm[d], eps)), own.eh_proj[d, 2 * d])
    x = rms_norm(block(x, own, caches[layer], c, layer), own.shared_head.norm[d], eps)
    return logits(x, w.model.embed_tokens[v, d] if c.tie_word_embeddings else w.lm_head[v, d])
