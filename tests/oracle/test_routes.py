"""The experts that rows are routed to, against transformers in float32, wherever rounding to bf16 cannot decide.

It cannot if the last expert chosen leads the next by more than twice the error that transformers in bf16 makes in any
of the row's numbers, or, where that is less, makes on average. Behind the first router only rows count that went
straight until then; what they hear of the detours of others, through attention, is small in these models.
"""

import json

import numpy as np
import pytest
from logit_cases import LIVE, expanded, prompt
from routes import routed_experts
from tiny import FAMILIES, write_checkpoint
from tiny_shapes import MOE

pytestmark = pytest.mark.oracle

SPARSE = [name for name, arguments in LIVE.items() if FAMILIES[arguments["architecture"]] in MOE]


@pytest.mark.parametrize("name", SPARSE)
def test_rows_go_to_the_experts_of_float32_transformers(name, tmp_path):
    import torch
    from oracle.peer import peer

    folder = write_checkpoint(tmp_path / name, **LIVE[name])
    numbers = write_checkpoint(tmp_path / "expanded", **expanded(LIVE[name]))
    config = json.loads((folder / "config.json").read_text())
    truth, rounded = (peer(numbers, prompt(name), dtype).routers for dtype in (torch.float32, torch.bfloat16))
    ours = routed_experts(folder, prompt(name))
    assert len(ours) == len(truth)
    straight = np.ones(len(prompt(name)), bool)  # rows that no router before sent elsewhere
    for number, (mine, exact, coarse) in enumerate(zip(ours, truth, rounded, strict=True)):
        error = np.abs(exact.choice - coarse.choice).max(axis=1)
        clear = margins(config, exact.choice) > 2 * np.maximum(error, error.mean())
        same, theirs = (mine == exact.ids).all(axis=1), (coarse.ids == exact.ids).all(axis=1)
        print(
            f"\n{name}, router {number}: {same.mean():.3f} of the rows as in float32 (bf16 {theirs.mean():.3f}), ",
            end="",
        )
        print(f"{(clear & straight).mean():.3f} must be", end="")
        assert (clear & straight).mean() > 0.3
        np.testing.assert_array_equal(mine[clear & straight], exact.ids[clear & straight])
        straight &= same


def margins(config: dict, choice: np.ndarray) -> np.ndarray:
    """float32 [T]: how much the numbers [T, experts] that a top-k compares may move before it takes another expert."""
    groups, top_k = config.get("n_group") or 1, config["num_experts_per_tok"]
    margin = np.full(len(choice), np.inf, np.float32)
    if groups > 1 and config.get("topk_method") != "greedy":
        members = np.sort(choice.reshape(len(choice), groups, -1), axis=2)
        top = 2 if config["topk_method"] == "noaux_tc" else 1
        score, keep = members[:, :, -top:].sum(axis=2), config["topk_group"]
        margin = lead(score, keep) / top
        kept = score >= np.sort(score, axis=1)[:, groups - keep, None]
        choice = np.where(np.repeat(kept, members.shape[2], axis=1), choice, -np.inf)
    return np.minimum(margin, lead(choice, top_k))


def lead(numbers: np.ndarray, k: int) -> np.ndarray:
    """By how much the k-th greatest number of a row leads the next."""
    if k == numbers.shape[1]:
        return np.full(len(numbers), np.inf, np.float32)
    ordered = -np.sort(-numbers, axis=1)
    return ordered[:, k - 1] - ordered[:, k]
