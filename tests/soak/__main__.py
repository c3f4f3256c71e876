"""Asks a server for as long as one likes: `python -m tests.soak --minutes 30 --seed S`.

64 clients at a time, in processes that are killed, send requests of up to 2048 tokens in all to a server of a tiny
model, leave some of the answers, and compare the others, bit for bit, with what the Python API answers to each alone.
Meanwhile the disk of the server's sessions becomes full and free again; at the end a crowd of connections comes.
Printed is what happened; exit code 1 if an answer was wrong, memory grew, or a thread or descriptor was not given back.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

from soak import Soak  # noqa: E402


def main() -> int:
    """Print a line for each thing that was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    with tempfile.TemporaryDirectory() as folder:
        load = {"processes": 8, "each": 8, "known": 48, "often": 0.04, "connections": options.connections}
        soak = Soak(Path(folder), seed=options.seed, **load)
        soak.run(lambda seconds, _: seconds < 60 * options.minutes)
    print(*soak.report(), sep="\n")
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
