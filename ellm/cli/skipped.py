"""Says what a loaded model leaves out, and what an option of it gives up."""

from __future__ import annotations

import re
from collections import Counter

from ellm.cli.terminal import note
from ellm.serving.runtime import Runtime

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")


def skipped(names: list[str], layers: int) -> list[str]:
    """One line on the tensors that a model of so many layers does not use; none if there is nothing to say."""
    if not names:
        return []
    places: Counter[str] = Counter()
    for name in names:
        layer = _LAYER.match(name)
        beyond = layer is not None and int(layer[1]) >= layers
        places[f"{layer[0]}*" if layer and beyond else re.sub(r"\b\d+\b", "*", name)] += 1
    parts = ", ".join(f"{place} ({count})" if count > 1 else place for place, count in places.items())
    return [f"not used: {len(names)} tensors of the checkpoint: {parts}"]


def note_skipped(runtime: Runtime) -> None:
    """Say on stderr which of several models was loaded, and what it leaves out."""
    for line in runtime.checkpoint.notes:
        note(line)
    if runtime.ignored:
        for line in skipped(runtime.ignored, runtime.compiled.source.model.config.num_hidden_layers):
            note(line)


def note_price(runtime: Runtime) -> None:
    """Say on stderr what expanded prefill, if it is on, gives up."""
    for line in runtime.compiled.notes(runtime.pool.threads):
        note(line)
