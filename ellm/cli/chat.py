"""A chat in the terminal."""

from __future__ import annotations

import contextlib
import os
import readline
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ellm.cli.answer import show
from ellm.cli.terminal import note, write
from ellm.llm import LLM
from ellm.serving.output import Output
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError

HELP = """\
/system TEXT   set the system message and start over; without TEXT, take it away
/reset         forget the conversation
/help          this
Ctrl-C         stop the answer
Ctrl-D         leave"""
HISTORY_LINES = 1000


class Chat:
    """One conversation. What a turn shares with the one before is cached, not computed again.

    Raises InputError for a model without a chat template.
    """

    def __init__(
        self,
        llm: LLM,
        params: SamplingParams,
        system: str | None,
        template: dict[str, Any],
        report: Callable[[LLM, Output], None] | None = None,
    ):
        if not llm.tokenizer.has_chat_template:
            raise InputError(f"{llm.tokenizer.source}: has no chat template to chat by; give it a PROMPT")
        self.llm = llm
        self.params = params
        self.system = system
        self.template = template  # arguments of Tokenizer.chat
        self.report = report
        self.messages: list[dict[str, str]] = []

    def loop(self) -> None:
        """Read lines until Ctrl-D. Ctrl-C while reading raises KeyboardInterrupt."""
        note("/help shows the commands, Ctrl-D leaves.")
        with line_history():
            while True:
                try:
                    line = read_line().strip()
                except EOFError:
                    write("\n")
                    return
                except UnicodeDecodeError as error:
                    note(f"ellm: that line is not {error.encoding} text")
                    continue
                try:
                    if line.startswith("/"):
                        self.command(line)
                    elif line:
                        self.answer(line)
                except InputError as error:
                    note(f"ellm: {error}")

    def command(self, line: str) -> None:
        """Do what a line that starts with / says."""
        name, _, text = line.partition(" ")
        if name == "/help":
            note(HELP)
        elif name == "/reset":
            self.reset()
            note("The conversation is forgotten.")
        elif name == "/system":
            self.system = text.strip() or None
            self.reset()
            note("The system message is set." if self.system else "There is no system message.")
        else:
            note(f"{name} is unknown; /help shows the commands.")

    def reset(self) -> None:
        """Forget the conversation."""
        self.messages = []

    def answer(self, text: str) -> None:
        """Stream the answer to one message. The conversation keeps what there is of it when Ctrl-C stops it."""
        question = {"role": "user", "content": text}
        first = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages = [*first, *self.messages, question]
        stream = self.llm.stream_chat(messages, self.params, **self.template)
        pressed = show(stream)
        output = stream.output
        if output.text:
            self.messages += [question, output.message]
        if pressed:
            note("(stopped)")
        elif output.finish_reason == "length":
            used = len(output.prompt_token_ids) + len(output.token_ids)
            full = used >= self.llm.context
            note(f"(the context of {self.llm.context} tokens is full: /reset)" if full else "(cut at --max-tokens)")
        if self.report is not None and output.token_ids:
            self.report(self.llm, output)


def read_line() -> str:
    """A line with editing and history; the prompt goes to stderr where stdout is no terminal."""
    if sys.stdout.isatty():
        return input("> ")
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def history_file() -> Path:
    """Where lines are kept: a path that cannot be written if this user has no home folder."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        state = os.devnull
    return Path(state, "ellm", "history")


@contextlib.contextmanager
def line_history():
    """Lines typed in earlier chats, kept in $XDG_STATE_HOME/ellm/history if that can be written."""
    path = history_file()
    readline.clear_history()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
