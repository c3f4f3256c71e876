"""Kills a server and a batch again and again, at random moments: `python -m tests.kills --count 50 --seed S`.

After each kill of the server every file of its sessions must be whole, be found by the next server, and give the
answer of a cold start, bit for bit. A batch that was killed and gone on with must end with the bytes of a run that
nobody disturbed. Exit code 1 if anything was lost, or other.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

from killed_batches import kill_batches  # noqa: E402
from killed_servers import kill_servers  # noqa: E402


def main() -> int:
    """Print what happened as it happens."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for kill in (kill_servers, kill_batches):
            for line in kill(Path(folder), options.count, options.seed):
                print(line, flush=True)
                faults += line.startswith("FAULT")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
