"""Checks the scheduler's protocol with SPIN: `python -m tests.spin` (needs Debian's spin, and a C compiler).

Two workers are checked in every order of their accesses, three in those that a bit-state search of fixed memory
reaches; both with partial order reduction. Then each planted fault must be found. Exit code 0: all of it is so.
How one step follows another is a model of its own, which is small enough for every order of three workers.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().with_name("protocol.pml")
FOLLOW = MODEL.with_name("follow.pml")
ONE_GROUP = ["-DGROUPS=1", "-DFIRST=4"]  # of which one worker has three tasks, so that several are stolen at once
SOUND = {
    "2 workers, words of former steps in place": ["-DGENERATIONS=3"],
    "2 workers, generations start anew in each step": ["-DGENERATIONS=1", *ONE_GROUP],
    "2 workers that never sleep, two groups": ["-DSTEPS=1", "-DFIRST=4", "-DSLEEP=0"],
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
    "a worker sleeps though it left tasks to their owner": ["-DFAULT=10"],
    "nobody is told of stolen tasks": ["-DFAULT=11", *ONE_GROUP],
    "a crew is said to be empty though tasks were told of during the look": ["-DFAULT=12", *ONE_GROUP],
    "a group counts a crew that is not through": ["-DFAULT=14", *ONE_GROUP],
    "what was left to its owner counts as nothing": ["-DFAULT=15"],
    "tasks are told of before they lie in the slice": ["-DFAULT=16", *ONE_GROUP],
    "a group's word is made void before its crew's": ["-DFAULT=17", *ONE_GROUP],
}
FAULTS_OF_FEW_SWITCHES = {  # from worker to worker: of more orders a search of 3 workers does not come to these
    "a crew is said to be empty when what it was given has run": [
        "-DFAULT=13",
        "-DWORKERS=3",
        "-DSTEPS=1",
        "-DSLEEP=0",
        *ONE_GROUP,
    ],
}
FAULTS_OF_FOLLOWING = {
    "a step is told as finished before the next is told as begun": ["-DFAULT=1"],
    "a step is told as finished when the next may have ended": ["-DFAULT=2"],
    "who leaves a step last lets others ask still": ["-DFAULT=3"],
    "who asks too late does not wait for the end": ["-DFAULT=4"],
}
SAMPLED = ["-DWORKERS=3"]
COMPILE = ["cc", "-O2", "-w", "-DSAFETY", "-DVECTORSZ=2048"]
FOUND = re.compile(r"errors: (\d+)\s+(\d+) states, stored")


def search(definitions: list[str], *flags: str, options: tuple[str, ...] = (), model: Path = MODEL) -> tuple[int, int]:
    """How many errors were found, the first ends the search, and how many states were seen."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["spin", *definitions, "-a", model], cwd=folder, check=True, capture_output=True)
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
    errors, states = search(["-DWORKERS=3"], "-DCOLLAPSE", model=FOLLOW)
    print(f"steps that follow, 3 workers: {errors} errors in all {states:,} states", flush=True)
    failed |= errors != 0
    faults = [(name, found, ("-DBITSTATE",), (), MODEL) for name, found in FAULTS.items()]
    faults += [
        (name, found, ("-DBITSTATE", "-DBCS"), ("-L2",), MODEL) for name, found in FAULTS_OF_FEW_SWITCHES.items()
    ]
    faults += [(name, found, ("-DCOLLAPSE",), (), FOLLOW) for name, found in FAULTS_OF_FOLLOWING.items()]
    for name, definitions, flags, options, model in faults:
        errors, states = search(definitions, *flags, options=options, model=model)
        print(f"planted: {name}: {'found' if errors else 'NOT found'} in {states:,} states", flush=True)
        failed |= errors == 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
