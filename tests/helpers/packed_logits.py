"""Logits of a checkpoint by a program that is packed in a given dtype."""

from contextlib import closing

import numpy as np

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.compiled import Options, Source, compile_model
from ellm.kernels import isa
from ellm.kernels.spill import Spill
from ellm.scheduler import Pool
from ellm.scheduler.step import StepInput
from ellm.system.memory import Mapping


def packed_logits(path, dtype: str | None, activations: str = "bf16") -> tuple[np.ndarray, set[str]]:
    """Of 40 tokens, and the formats of the weights; None packs them as they are stored."""
    with open_checkpoint(path) as checkpoint, Pool(1) as pool:
        options = {"dtype": dtype, "activations": activations}
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64, **options)).program
        with (
            closing(Mapping(program.weights_bytes + program.spill_bytes, "the weights")) as weights,
            closing(Mapping(program.range_bytes, "the KV range")) as cache,
        ):
            spill = Spill(weights.address + program.weights_bytes, program.spill_bytes)
            load_weights(program.weights, checkpoint, weights.address, pool.placement, spill=spill)
            executable = pool.load(program, isa.table(isa.choose().isa), weights.address)
            rows = np.arange(40)
            tokens, vocab = (7 * rows + 1) % program.vocab, program.vocab
            step = StepInput.of(rows, tokens, ranges=[cache.address], logit_row=rows, vocab=vocab)
            executable.run(step)
    return step.logits, {*program.weight_bytes}
