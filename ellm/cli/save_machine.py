"""`ellm doctor --save FILE`: measure this machine into a description that `ellm plan` takes."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ellm.cli.terminal import note
from ellm.kernels import isa as isas
from ellm.kernels.errors import InputError
from ellm.measure import ROUNDS, Meter
from ellm.scheduler import Pool


def save(file: str, threads: int | None, isa: str | None) -> None:
    """Measure and write. Raises InputError if the file cannot be written."""
    path = Path(file).expanduser()
    choice = isas.choose(isa)
    try:
        path.open("a").close()  # before the measuring, not after
        note("measuring this machine ...")
        with Pool(threads) as pool, closing(Meter(pool, isas.table(choice.isa))) as meter:
            machine = meter.measure(4 * ROUNDS)
        comment = (
            f"Measured by `ellm doctor --save` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with the {choice.isa} kernels."
        )
        path.write_text(machine.as_toml(comment))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    note(f"saved to {path}")
