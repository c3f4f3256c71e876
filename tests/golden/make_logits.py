"""Writes tests/golden/logits/*.npz: what transformers says about the tiny models of logit_cases.GOLDEN.

Run from the root: PYTHONPATH=tests/helpers python tests/golden/make_logits.py [CASE ...]
With names of cases it writes theirs alone. Needs pip install '.[oracle]'.

A file holds `sha256` of the checkpoint's weights, `positions`, `truth` (float16 log-probabilities of float32
transformers at these positions), `best` (its first choice at every position), and for transformers in bf16 `peer_kl`
and `peer_median` (of KL(truth || bf16) over `positions`) and `peer_agreement` (share of all positions whose first
choice is `best`).
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from logit_cases import GOLDEN, expanded, prompt
from measures import agreement, divergences, log_softmax
from peer import peer_logits
from tiny import write_checkpoint

FOLDER = Path(__file__).parent / "logits"
POSITIONS = 256  # of each prompt at least: the files then stay below 4 MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names in logit_cases.GOLDEN; none: all of them")
    cases = parser.parse_args().cases or list(GOLDEN)
    if unknown := [name for name in cases if name not in GOLDEN]:
        parser.error(f"{', '.join(unknown)}: not in logit_cases.GOLDEN, which has {', '.join(GOLDEN)}")
    FOLDER.mkdir(exist_ok=True)
    for name in cases:
        arguments = GOLDEN[name]
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(folder, **arguments)
            digest = hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()
            write_checkpoint(folder, **expanded(arguments))
            exact = peer_logits(folder, prompt(name), torch.float32)
            rounded = peer_logits(folder, prompt(name), torch.bfloat16)
        positions = np.arange(1, len(exact), len(exact) // POSITIONS)
        truth = log_softmax(exact[positions]).astype(np.float16)
        best = exact.argmax(axis=-1).astype(np.uint16)
        peer, peer_agreement = divergences(truth, rounded[positions]), agreement(best, rounded)
        np.savez_compressed(
            FOLDER / f"{name}.npz",
            sha256=digest,
            positions=positions,
            truth=truth,
            best=best,
            peer_kl=peer.mean(),
            peer_median=np.median(peer),
            peer_agreement=peer_agreement,
        )
        print(f"{name}: KL of bf16 {peer.mean():.2e}, top-1 {peer_agreement:.4f}")


if __name__ == "__main__":
    main()
