"""What the commands share: notes and the loading bar on stderr, and Ctrl-C during an answer."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ellm.system.errors import harmless

console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def note(text: str) -> None:
    """A line for the user, beside the text that was asked for."""
    console.print(*map(harmless, text.split("\n")), sep="\n", style="dim")


@contextmanager
def loading(model: str) -> Iterator[Callable[[int, int], None] | None]:
    """What shows a bar, from its first call (bytes done, bytes in all) on; None where stderr is no terminal."""
    if not console.is_terminal:
        yield None
        return
    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    ]
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(f"loading {harmless(model)}", total=None)

    def move(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        bar.start()

    try:
        yield move
    finally:
        bar.stop()


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """What moves a bar of so many steps by one; it does nothing where stderr is no terminal."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


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
