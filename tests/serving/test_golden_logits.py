"""Logits against those of transformers committed in golden/logits, which golden/make_logits.py wrote."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from logit_cases import CONTEXTS, EXPERTS_KL_SHARE, GOLDEN, KL_SHARE, WITH_EXPERTS, prompt
from measures import agreement, divergence, divergences
from tiny import write_checkpoint

import ellm

FOLDER = Path(__file__).parents[1] / "golden" / "logits"
ROUTED_ELSEWHERE = 0.01  # of 256 positions: chance in one prompt; oracle/test_routes.py takes more and allows none


def test_every_case_has_its_file():
    assert {file.stem for file in FOLDER.glob("*.npz")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_closer_to_float32_than_bf16_transformers(name, tmp_path):
    golden = np.load(FOLDER / f"{name}.npz")
    folder = write_checkpoint(tmp_path, **GOLDEN[name])
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == str(golden["sha256"]), "the checkpoint changed: run golden/make_logits.py again"
    with ellm.LLM(str(folder), context=CONTEXTS.get(name)) as llm:
        logits = llm.logits(prompt(name).tolist())
    found = divergences(golden["truth"], logits[golden["positions"]])
    assert np.median(found) <= KL_SHARE * float(golden["peer_median"])
    share, slack = (EXPERTS_KL_SHARE, ROUTED_ELSEWHERE) if name in WITH_EXPERTS else (KL_SHARE, 0)
    assert found.mean() <= share * float(golden["peer_kl"])
    assert agreement(golden["best"], logits) >= float(golden["peer_agreement"]) - slack


def test_f16_weights_are_as_exact_as_bf16_ones(tmp_path):
    """Each against float32 transformers on its own weights: what is left is the rounding of activations."""
    errors = {}
    for name in ("llama", "llama-f16"):
        golden = np.load(FOLDER / f"{name}.npz")
        with ellm.LLM(str(write_checkpoint(tmp_path / name, **GOLDEN[name]))) as llm:
            logits = llm.logits(prompt(name).tolist())
        errors[name] = divergence(golden["truth"], logits[golden["positions"]])
    assert errors["llama-f16"] <= 1.1 * errors["llama"]
