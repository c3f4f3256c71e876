"""Which one of several GGUF files of a folder or repository a name means: a model often comes in many quantisations.

It is named as for llama.cpp's -hf: by words of the file's or folder's name that end at "-" or ".", in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ellm.checkpoint.gguf_parts import part_names, part_number, stem
from ellm.system.errors import InputError

DEFAULT = "Q4_K_M"
_NO_MODELS = ("mmproj", "imatrix")  # what lies beside a model: its vision part, statistics for quantising
_SHOWN = 12


def models(names: Iterable[str]) -> list[str]:
    """Those of the names, paths in a folder or repository, that are models in GGUF files: of parts the first."""
    return sorted(name for name in names if _is_model(name))


def choose(names: Iterable[str], quantisation: str | None, source: str) -> tuple[str, list[str]]:
    """The model that `quantisation` means, or else the only one, that of DEFAULT, or the first of `names`.

    With it a note if there were others as good. Raises InputError if there is none.
    """
    names = sorted(names)
    found = models(names)
    if not found:
        there = _listed([name for name in names if name.lower().endswith(".gguf")])
        raise InputError(f"{source}: has no GGUF model" + (f", only {there}" if there else ""))
    fitting = [name for name in found if _means(name, quantisation or DEFAULT)]
    if quantisation is not None and not fitting:
        raise InputError(f"{source}: has no GGUF file of {quantisation!r}, it has {_listed(found)}")
    chosen = (fitting or found)[0]
    others = [name for name in (found if quantisation is None else fitting) if name != chosen]
    if not others:
        return chosen, []
    return chosen, [f"{source}: took {chosen}; others are named as in NAME:{DEFAULT}: {_listed(others)}"]


def parts(name: str) -> list[str]:
    """Paths of all files of the model whose first part, or only file, this is."""
    folder, slash, file = name.rpartition("/")
    return [f"{folder}{slash}{part}" for part in part_names(file)]


def _is_model(name: str) -> bool:
    file = name.rpartition("/")[2]
    return (
        file.lower().endswith(".gguf")
        and part_number(file) == 1
        and not any(word in file.lower() for word in _NO_MODELS)
    )


def _means(name: str, quantisation: str) -> bool:
    folder, slash, file = name.rpartition("/")
    pattern = rf"(?<![^\W_]){re.escape(quantisation)}(?=[-./]|$)"
    return re.search(pattern, f"{folder}{slash}{stem(file)}", re.IGNORECASE) is not None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
