"""Checks the scheduler's protocol with SPIN: `python -m tests.spin` (needs Debian's spin, and a C compiler).

Two workers are checked in every order of their accesses, three in those that a bit-state search of fixed memory
reaches; both with partial order reduction. Then each planted fault must be found. Exit code 0: all of it is so.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().with_name("protocol.pml")
SOUND = {
    "2 workers, words of former steps in place": ["-DGENERATIONS=3"],
    "2 workers, generations start anew in each step": ["-DGENERATIONS=1"],
}
FAULTS = {
    "words are not wiped when generations start anew": ["-DGENERATIONS=1", "-DFAULT=1"],
    "the step is closed behind the log's end": ["-DFAULT=2"],
    "a worker looks at the log before it counts as asleep": ["-DFAULT=3"],
    "a task is counted before it has run": ["-DFAULT=4"],
    "a slice is written without comparing": ["-DFAULT=5"],
    "the same, 3 workers": ["-DFAULT=5", "-DWORKERS=3"],
    "a worker that was woken does not wake those left to it": ["-DFAULT=6"],
    "a crew's count goes on from the step before": ["-DFAULT=7"],
    "who is to wake others is told after being woken": ["-DFAULT=8"],
    "as many others are woken as there are workers": ["-DFAULT=9", "-DWORKERS=3"],
}
SAMPLED = ["-DWORKERS=3", "-DSTEPS=1"]
COMPILE = ["cc", "-O2", "-w", "-DSAFETY", "-DVECTORSZ=2048"]
FOUND = re.compile(r"errors: (\d+)\s+(\d+) states, stored")


def search(definitions: list[str], *flags: str, options: tuple[str, ...] = ()) -> tuple[int, int]:
    """How many errors were found, the first ends the search, and how many states were seen."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["spin", *definitions, "-a", MODEL], cwd=folder, check=True, capture_output=True)
        subprocess.run([*COMPILE, *flags, "-o", "pan", "pan.c"], cwd=folder, check=True)
        printed = subprocess.run(["./pan", "-m1000000", *options], cwd=folder, capture_output=True, text=True).stdout
    found = FOUND.search(printed)
    if not found or "max search depth too small" in printed:
        sys.exit(f"the search did not end:\n{printed}")
    return int(found[1]), int(found[2])


def main() -> int:
    """Print a line for each search."""
    failed = False
    for name, definitions in SOUND.items():
        errors, states = search(definitions, "-DCOLLAPSE")
        print(f"{name}: {errors} errors in all {states:,} states", flush=True)
        failed |= errors != 0
    errors, states = search(SAMPLED, "-DBITSTATE", options=("-w25",))
    print(f"3 workers, by bit-state: {errors} errors in {states:,} states", flush=True)
    failed |= errors != 0
    for name, definitions in FAULTS.items():
        errors, states = search(definitions, "-DBITSTATE")
        print(f"planted: {name}: {'found' if errors else 'NOT found'} in {states:,} states", flush=True)
        failed |= errors == 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
