"""An answer as it comes: its text on stdout; what the model thinks before it, dimmed, on a terminal alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ellm.cli.terminal import console, has_terminal, interruptible, note, write
from ellm.serving.stream import Stream
from ellm.system.errors import InputError, harmless

if TYPE_CHECKING:
    from rich.live import Live

LINES, TAIL = 4, 4096  # of thoughts: what is seen at once, and the characters that this is cut from
REFRESH = 0.05  # seconds


def show(stream: Stream) -> bool:
    """Write an answer as it comes, and a line end. Whether Ctrl-C stopped it."""
    thoughts, written = Thoughts(), False
    with interruptible(stream.close) as pressed:
        try:
            for piece in stream.pieces():
                if piece.kind == "answer":
                    if not written and thoughts.close():
                        note(f"(thought for {stream.output.metrics.reasoning_tokens} tokens)")
                    write(piece.text)
                    written = True
                elif piece.kind == "reasoning" and not written:
                    thoughts.show(piece.text)
        except InputError:
            if written:
                write("\n")
            raise
        finally:
            thoughts.close()
        if not written and stream.output.reasoning is not None:
            note(f"(thought for {stream.output.metrics.reasoning_tokens} tokens, and did not answer)")
        write("\n")
    return bool(pressed)


class Thoughts:
    """The last lines of a text that grows, on stderr if that is a terminal."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._text = ""
        self._shown = 0.0

    def show(self, text: str) -> None:
        """Add some text."""
        if not has_terminal():
            return
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(
                console=console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._text = (self._text + text)[-TAIL:]
        now = time.monotonic()
        if now - self._shown >= REFRESH:
            self._shown = now
            lines = (harmless(line) for line in self._text.expandtabs(4).split("\n"))
            wrapped = Text("\n".join(lines), style="dim").wrap(console(), console().width)
            self._live.update(Group(*wrapped[-LINES:]), refresh=True)

    def close(self) -> bool:
        """Take the lines away. Whether there were any."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        return live is not None
