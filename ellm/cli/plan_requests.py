"""`ellm plan --requests`: how long the requests of a trace would wait on a machine that is only described."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ellm.kernels.isa import ROW_UNIT
from ellm.predict.planner import Planner
from ellm.predict.step_seconds import StepSeconds
from ellm.predict.traffic import Request, Traffic, percentiles
from ellm.serving.bounds import is_number
from ellm.serving.engine import SLOTS
from ellm.serving.policy import PRIORITIES, Policy, Terms
from ellm.system.errors import InputError, one_line

FIELDS = ("arrival", "prompt", "output", "class")
MOST_REQUESTS, MOST_BYTES = 100_000, 1 << 24


def read(path: str, positions: int) -> list[Request]:
    """The requests of a file with one JSON object a line, for a model of so many positions.

    Raises InputError, with the line and its values, if it cannot be read or one is not a request.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        lines = content.decode().splitlines()
    except (OSError, RuntimeError) as error:
        raise InputError(f"--requests {path}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--requests {path}: not UTF-8 at byte {error.start}") from error
    if len(content) > MOST_BYTES or len(lines) > MOST_REQUESTS:
        raise InputError(f"--requests {path}: more than {MOST_REQUESTS} requests or {MOST_BYTES >> 20} MiB")
    found = [
        _request(line, f"--requests {path}: line {at}", positions) for at, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise InputError(f"--requests {path}: no requests in it")
    return found


def _request(line: str, where: str, positions: int) -> Request:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {one_line(error)}") from error
    if not isinstance(said, dict):
        raise InputError(f"{where}: {one_line(repr(said), 60)} is not an object with {', '.join(FIELDS)}")
    unknown = [name for name in said if name not in FIELDS]
    if unknown:
        raise InputError(f"{where}: {one_line(repr(unknown[0]), 60)} is none of {', '.join(FIELDS)}")
    arrival: Any = said.get("arrival")
    prompt: Any = said.get("prompt")
    output: Any = said.get("output")
    if not is_number(arrival) or not 0 <= arrival < 1e9:
        raise InputError(f"{where}: arrival must be seconds from 0 on, not {one_line(repr(arrival), 60)}")
    for name, value in (("prompt", prompt), ("output", output)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{where}: {name} must be a number of tokens, not {one_line(repr(value), 60)}")
    if prompt + output > positions:
        raise InputError(f"{where}: {prompt} + {output} tokens: this model has {positions} positions")
    priority = said.get("class", PRIORITIES[0])
    if priority not in PRIORITIES:
        raise InputError(f"{where}: class must be {' or '.join(PRIORITIES)}, not {one_line(repr(priority), 60)}")
    which = PRIORITIES.index(priority)
    return Request(Terms(which, paced=which == 0, arrived=float(arrival)), prompt, output)


def lines(planner: Planner, requests: list[Request]) -> list[str]:
    """Serve them, and tell how long they waited."""
    program = planner.program
    free = 1e9 * (planner.machine.capacity_gb - planner.memory_gb(0))
    one = (program.cache_bytes(program.context) - program.cache_bytes(0)) / program.context
    positions = free / one if one else math.inf
    deepest = max(request.prompt + request.output for request in requests)
    seconds = StepSeconds(planner, SLOTS, deepest)
    traffic = Traffic(Policy(program.chunk, ROW_UNIT[planner.machine.isa]), seconds, slots=SLOTS, positions=positions)
    traffic.serve(requests)
    begun = min(request.terms.arrived for request in requests)
    took = traffic.now - begun
    tokens, prompts = sum(one.output for one in requests), sum(one.prompt for one in requests)
    return [
        "",
        f"{f'{len(requests)} REQUESTS':<20}{'first token s':>20}{'between tokens ms':>24}{'most waits ms':>18}",
        f"{'':<20}{'p50':>10}{'p99':>10}{'p50':>12}{'p99':>12}{'p50':>9}{'p99':>9}",
        *(_class_line(name, requests) for name in PRIORITIES),
        f"{tokens / took:.1f} tokens/s, {prompts / took:.1f} of prompts, for {took:.1f} s, "
        f"{traffic.busy / took:.0%} of them busy; "
        f"{sum(one.preemptions for one in requests)} times a request was sent back to wait",
        f"Up to {SLOTS} requests at a time, in steps of up to {program.chunk} rows. "
        "Most waits: the longest wait for a token of each request.",
    ]


def _class_line(name: str, requests: list[Request]) -> str:
    requests = [one for one in requests if PRIORITIES[one.terms.priority] == name]
    if not requests:
        return f"{name:<20}{'none':>10}"
    first = percentiles([one.first for one in requests], 50, 99)
    gaps = percentiles([1e3 * gap for one in requests for gap in one.gaps], 50, 99)
    most = percentiles([1e3 * max(one.gaps) for one in requests if one.gaps], 50, 99)
    return f"{name:<20}{_columns(first, 10, 3)}{_columns(gaps, 12, 1)}{_columns(most, 9, 1)}"


def _columns(values: list[float], width: int, digits: int) -> str:
    return "".join(f"{value:>{width}.{digits}f}" if value == value else f"{'-':>{width}}" for value in values)
