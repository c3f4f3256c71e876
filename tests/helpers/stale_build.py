"""Whether the extensions in the tree are built from the sources in the tree."""

from pathlib import Path

ROOMS = ("kernels", "scheduler")
SHARED = ("h", "pxi", "pxd")


def changed_since_built(root: Path) -> Path | None:
    """A source that is newer than an extension made of it; setup.py has the same rule. None if there is none."""
    shared = [path for room in ROOMS for kind in SHARED for path in (root / room).glob(f"*.{kind}")]
    for source in [path for room in ROOMS for path in (root / room).glob("*.pyx")]:
        newest = max(source, *shared, key=changed)
        if any(changed(built) < changed(newest) for built in source.parent.glob(f"{source.stem}.*.so")):
            return newest
    return None


def changed(path: Path) -> int:
    return path.stat().st_mtime_ns
