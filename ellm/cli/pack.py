"""`ellm pack`: a model in one file, and whether such a file is whole."""

from __future__ import annotations

from pathlib import Path

from ellm.checkpoint import aliases, open_checkpoint, packed_file
from ellm.cli.terminal import loading, note, terminable
from ellm.pack import pack as write
from ellm.system.memory import readable


def pack(model: str, out: str, dtype: str | None, expanded_prefill: bool) -> None:
    """Write a file, under a progress bar. Raises InputError if the model, an option or the file will not do."""
    path = packed_file.check_writable(out)
    with terminable(), loading(model, "packing") as progress, open_checkpoint(model, progress=progress) as checkpoint:
        write(checkpoint, path, dtype=dtype, expanded_prefill=expanded_prefill, progress=progress)
    for line in checkpoint.notes:
        note(line)
    note(f"wrote {path}: {readable(path.stat().st_size)}")


def verify(model: str) -> None:
    """Read all of a packed file, under a progress bar. Raises InputError if anything in it is not as it was written."""
    path: Path = aliases.path_of(model)
    with loading(model, "verifying") as progress:
        header = packed_file.verify(path, progress)
    note(f"{path}: is whole: {readable(header.weights_bytes)} of weights")
