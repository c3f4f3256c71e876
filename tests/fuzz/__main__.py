"""Feeds damaged files to the readers of models: `python -m tests.fuzz TARGET --count N --seed S`.

Each input must be taken, or refused with one line, within a second of CPU time and without a word on stderr. What is
not goes to `--findings`, a folder for each kind of fault; the exit code is 1 if there is one.
"""

import argparse
import json
import mmap
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

from mutations import Files  # noqa: E402
from targets import TARGETS, Finding, Fuzzer, outcome  # noqa: E402

_SECONDS, _PATIENCE = 1.0, 60.0  # of CPU time, and of a reader that waits


def main() -> int:
    """Fork what reads until all inputs are done: one that dies of an input is started again behind it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    done = mmap.mmap(-1, 8)
    deaths = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        folder = Path(place, "files")
        folder.mkdir()
        store = Findings(options.findings / options.target)
        while (begin := int.from_bytes(done[:8], "little")) < options.count:
            child = os.fork()
            if child == 0:
                _work(options.target, f"{options.seed}/{begin}", folder, begin, options.count, done, store)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                deaths += 1
                store.add(_read(folder), f"dies of {signal.Signals(os.WTERMSIG(status)).name}")
            elif os.WEXITSTATUS(status):
                raise SystemExit(os.WEXITSTATUS(status))
    kinds = len(list(store.place.glob("*/")))
    print(f"{options.target}: {options.count} inputs, {deaths} deaths, {kinds} kinds of findings in {store.place}")
    return 1 if kinds else 0


def _work(name: str, seed: str, folder: Path, begin: int, count: int, done: mmap.mmap, store: "Findings") -> None:
    fuzzer, errors = Fuzzer(TARGETS[name], seed), os.memfd_create("stderr")
    screen = os.dup(2)
    os.dup2(errors, 2)
    started = time.monotonic()
    for number in range(begin, count):
        files = fuzzer.next()
        done[:8] = (number + 1).to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        try:
            fuzzer.learn(files, outcome(TARGETS[name], folder, files))
        except Finding as finding:
            store.add(files, str(finding))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if said := os.fstat(errors).st_size:
            store.add(files, f"says {os.pread(errors, said, 0).decode(errors='replace')}")
            os.ftruncate(errors, 0)
            os.lseek(errors, 0, os.SEEK_SET)
        if (number + 1) % 10_000 == 0:
            speed = (number + 1 - begin) / (time.monotonic() - started)
            os.write(screen, f"{name}: {number + 1}, {len(fuzzer.outcomes)} outcomes, {speed:.0f}/s\n".encode())
    os._exit(0)


def _read(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Findings:
    """Folders of files, one for each kind of fault, which what is said of it tells apart."""

    def __init__(self, place: Path):
        self.place = place

    def add(self, files: Files, said: str) -> None:
        """Keep these files, unless there is one of their kind."""
        line = next(filter(None, said.removeprefix("says ").split("\n")), said)
        name = re.sub(r"\W+", "-", re.sub(r"'.*?'|\(\d+\)|/\S+/", "", line))[:80].strip("-")
        if (self.place / name).exists():
            return
        (self.place / name).mkdir(parents=True)
        for file, content in files.items():
            (self.place / name / file).write_bytes(content)
        (self.place / name / "SAID").write_text(json.dumps(said)[1:-1])


if __name__ == "__main__":
    sys.exit(main())
