"""`ellm run`: one answer, or a chat."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from ellm.checkpoint.aliases import DEFAULT
from ellm.cli.answer import show
from ellm.cli.model_sampling import choose
from ellm.cli.skipped import note_price, note_skipped
from ellm.cli.template_options import TemplateOptions
from ellm.cli.terminal import loading, note
from ellm.llm import LLM
from ellm.serving.output import Output
from ellm.serving.sampling import SamplingParams
from ellm.system import memory
from ellm.system.errors import InputError


def run(
    model: str | None,
    prompt: str | None,
    sampling: dict[str, Any],
    template: TemplateOptions,
    *,
    raw: bool,
    system: str | None,
    stats: bool,
    options: dict[str, Any],
) -> None:
    """Answer `prompt`, or stdin if there is none and stdin is no terminal; else chat.

    `sampling` are fields of SamplingParams; those that are None are the model's own.
    """
    given = {name: value for name, value in sampling.items() if value is not None}
    SamplingParams(**given)  # refused before anything is loaded
    if raw and (system is not None or template.given):
        option = "--system" if system is not None else "--think" if template.think is not None else "--template-arg"
        raise InputError(f"{option} needs the chat template, which --raw leaves out")
    if model is None:
        note(f"no model named: using {DEFAULT}")
    chatting = prompt is None and sys.stdin.isatty()
    if chatting and raw:
        raise InputError("--raw needs a PROMPT: a chat is made by the chat template")
    if prompt is not None and not prompt.strip():
        raise InputError("PROMPT is empty")
    text = read_stdin() if not chatting and prompt in (None, "-") else prompt
    with open_llm(DEFAULT if model is None else model, options) as llm:
        params = choose(llm, given)
        if text is None:
            from ellm.cli.chat import Chat  # these are slow to import

            Chat(llm, params, system, template.of_chat(llm), reporter(stats)).loop()
        else:
            answer(llm, text, params, template, raw=raw, system=system, stats=stats)


def open_llm(model: str, options: dict[str, Any]) -> LLM:
    """The model, loaded under a progress bar."""
    try:
        with loading(model) as progress:
            llm = LLM(model, needs_text=True, progress=progress, **options)
    except InputError as error:
        if " " in model.strip() and not os.path.exists(model):
            raise InputError(f'{error}; a lone argument is the MODEL: ellm run {DEFAULT} "{model}"') from error
        raise
    note_skipped(llm.runtime)
    note_price(llm.runtime)
    for line in llm.tokenizer.notes:
        note(line)
    needed, there = llm.runtime.compiled.range_bytes, memory.available()
    if needed > there:
        note(
            f"a full context of {llm.context} tokens would need {memory.readable(needed)} for keys and values, "
            f"{memory.readable(there)} are left: an answer that gets too long will fail"
        )
    return llm


def read_stdin() -> str:
    """The prompt on stdin. Raises InputError if there is none, or it is not text."""
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not {error.encoding} text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise InputError("there is no PROMPT, and stdin is empty; a lone argument is the MODEL")
    return text


def answer(
    llm: LLM,
    text: str,
    params: SamplingParams,
    template: TemplateOptions,
    *,
    raw: bool,
    system: str | None,
    stats: bool,
) -> None:
    """Stream the answer to one prompt to stdout. Raises KeyboardInterrupt when Ctrl-C has stopped it."""
    if not raw and not template.given and not llm.tokenizer.has_chat_template:
        note("this model has no chat template: continuing the prompt itself, as with --raw")
        raw = True
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    stream = llm.stream(text, params) if raw else llm.stream_chat(messages, params, **template.of_chat(llm))
    pressed = show(stream)
    if pressed:
        raise KeyboardInterrupt
    if report := reporter(stats):
        report(llm, stream.output)


def reporter(stats: bool) -> Callable[[LLM, Output], None] | None:
    """What prints the figures of an answer, if they are wanted."""
    if not stats:
        return None
    from ellm.cli.stats import report

    return report
