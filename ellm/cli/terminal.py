"""What the commands share: notes and the loading bar on stderr, and Ctrl-C during an answer."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line for the user, beside the text that was asked for."""
    console.print(text, style="dim", markup=False)


@contextmanager
def loading(model: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that (bytes done, bytes in all) moves; nothing is shown where stderr is no terminal."""
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"loading {model}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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


def write(text: str) -> None:
    """Text on stdout, shown at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
