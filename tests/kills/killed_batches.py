"""`ellm batch`, killed again and again: in the end its output is that of an undisturbed run."""

import random
import subprocess
import time
from itertools import zip_longest

from batch_lines import write_batch
from server_process import COMMAND
from tiny import write_checkpoint

LINES, TOKENS = 4000, 60
LONGEST = 6.0  # seconds from a start to a kill


def kill_batches(folder, count, seed):
    """Yields a line about every run, and faults, which begin with FAULT."""
    draw = random.Random(seed)
    model = write_checkpoint(folder / "model", "Qwen3ForCausalLM")
    write_batch(folder, LINES, TOKENS)
    whole = folder / "whole.jsonl"
    yield f"batch: an undisturbed run of {LINES} lines ended with code {_started(model, folder, whole).wait()}"
    kills = rounds = 0
    while kills < count:
        out, rounds = folder / f"out{rounds}.jsonl", rounds + 1
        begun = kills
        while kills < count:
            process = _started(model, folder, out)
            if _ends_within(process, draw.uniform(0, LONGEST)):
                break
            process.kill()
            process.wait()
            kills += 1
        code = _started(model, folder, out).wait()
        yield f"batch: killed {kills - begun} times, then it ended with code {code}"
        if out.read_bytes() != whole.read_bytes():
            lines = zip_longest(out.read_bytes().splitlines(), whole.read_bytes().splitlines())
            other = [number for number, (ours, theirs) in enumerate(lines, 1) if ours != theirs]
            yield f"FAULT: batch: {len(other)} lines are other ones, the first is {other[:1]}"
        left = [file.name for file in folder.glob(f"{out.name}.*")]
        if left:
            yield f"FAULT: batch: {left} are left over"


def _started(model, folder, out):
    command = [*COMMAND, "batch", str(model), str(folder / "in.jsonl"), str(out), "--pin", "none"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _ends_within(process, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return True
        time.sleep(0.005)
    return False
