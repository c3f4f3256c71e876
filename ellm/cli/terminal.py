"""What the commands share: notes and the loading bar on stderr, and Ctrl-C during an answer."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ellm.system.errors import harmless

if TYPE_CHECKING:
    from rich.console import Console

ESTIMATE_PERIOD = 600  # seconds that the time left is estimated from


@functools.cache
def console() -> Console:
    """What writes to stderr."""
    from rich.console import Console  # takes a while to import, and a short answer without a terminal needs none

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def has_terminal() -> bool:
    """Whether somebody sees stderr."""
    return sys.stderr.isatty()


def note(text: str) -> None:
    """A line for the user, beside the text that was asked for."""
    console().print(*map(harmless, text.split("\n")), sep="\n", style="dim")


@contextmanager
def loading(model: str, work: str = "loading") -> Iterator[Callable[[int, int], None] | None]:
    """What shows a bar, from its first call (bytes done, bytes in all) on; None where stderr is no terminal."""
    if not has_terminal():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    ]
    bar = Progress(*columns, console=console(), transient=True)
    task = bar.add_task(f"{work} {harmless(model)}", total=None)

    def move(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        bar.start()

    try:
        yield move
    finally:
        bar.stop()


@contextmanager
def counting(what: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """What moves a bar of so many steps by one, or more; it does nothing where stderr is no terminal."""
    from rich import progress

    columns = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left:"),
        progress.TimeRemainingColumn(),
    ]
    options: dict[str, Any] = {"console": console(), "transient": True, "speed_estimate_period": ESTIMATE_PERIOD}
    with progress.Progress(*columns, disable=not has_terminal(), **options) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda steps=1: bar.advance(task, steps)


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[list[bool]]:
    """Ctrl-C calls `stop` instead of raising; the list is not empty once it was pressed."""
    pressed: list[bool] = []

    def handle(*_: object) -> None:
        pressed.append(True)
        stop()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does at that moment."""

    def handle(*_: object) -> None:
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, None)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def write(text: str) -> None:
    """Text on stdout, shown at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
