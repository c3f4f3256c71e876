"""`ellm doctor --save FILE`: measure this machine into a description that `ellm plan` takes."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ellm.cli.terminal import note
from ellm.kernels import isa as isas
from ellm.machine.measure import ROUNDS, Meter
from ellm.scheduler import Pool
from ellm.system.files import write_whole


def save(path: Path, threads: int | None, isa: str | None) -> None:
    """Measure and write. Raises InputError if the file cannot be written or the cores cannot be described."""
    choice = isas.choose(isa)
    note("measuring this machine ...")
    with Pool(threads) as pool, closing(Meter(pool, isas.table(choice.isa))) as meter:
        machine = meter.measure(4 * ROUNDS)
    comment = (
        f"Measured by `ellm doctor --save` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with the {choice.isa} kernels."
    )
    write_whole(path, machine.as_toml(comment).encode())
    note(f"saved to {path}")
