"""`ellm batch`: requests out of a file into a file, and what became of them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from ellm import __version__
from ellm.batch.answers import Answers
from ellm.batch.identity import batch_id, digest_of_model
from ellm.batch.ledger import Full, Ledger, Tally
from ellm.batch.lines import Lines
from ellm.batch.request import Reader
from ellm.batch.run import Batch
from ellm.checkpoint.aliases import DEFAULT
from ellm.cli.run import open_llm
from ellm.cli.terminal import counting, note, terminable
from ellm.kernels import isa as isas
from ellm.server.service import Service
from ellm.system.errors import InputError

_DECIDE = ("dtype", "activations", "kv", "expanded_prefill", "context")  # options on which the bits of answers depend


def batch(model: str | None, input_file: str, output_file: str, *, raw: bool, options: dict[str, Any]) -> bool:
    """Answer what is not answered yet. Whether no line is an error. Raises InputError if the batch cannot be run."""
    lines, out = Lines(_path(input_file)), _path(output_file)
    if not lines.count:
        raise InputError(f"{lines.path}: has no requests")
    if out.exists() and out.samefile(lines.path):
        raise InputError(f"{out}: is the input too")
    if model is None:
        model = _named(lines) or DEFAULT
        note(f"no model named: using {model}")
    about = {
        "input": f"{lines.count} lines, SHA-256 {lines.digest[:16]}",
        "model": f"{model}, digest {digest_of_model(model)}",
        "ellm": __version__,
        "isa": isas.choose(options["isa"]).isa,
        "raw": str(raw),
        **{name: str(options[name]) for name in _DECIDE},
    }
    answers = Answers(batch_id(about))
    ledger = Ledger(out, about, answers, lines)
    try:
        if ledger.done:
            note(f"{out}: {ledger.done} of {lines.count} lines were answered before")
        if ledger.tally.lines < lines.count:
            _run(model, lines, ledger, answers, raw=raw, options=options)
        ledger.finish()
    finally:
        ledger.close()
    _summarize(out, ledger.tally)
    return not ledger.tally.errors


def _run(model: str, lines: Lines, ledger: Ledger, answers: Answers, *, raw: bool, options: dict[str, Any]) -> None:
    with terminable(), open_llm(model, {**options, "past_turns": False}) as llm:
        if not raw and not llm.tokenizer.has_chat_template:
            note("this model has no chat template: continuing the prompts of plain lines, as with --raw")
            raw = True
        service = Service(llm, (model, Path(model).name, Path(model).stem), priority="batch")
        greedy = "temperature" not in llm.runtime.sampling.fields
        reader = Reader(model, lines.path.parent, service.bounds, raw, greedy)
        begun, before = time.perf_counter(), ledger.done
        try:
            with counting("answering", lines.count, before) as moved:
                asyncio.run(Batch(service, lines, reader, answers, ledger, moved).run())
        except (KeyboardInterrupt, Full):
            note(f"{ledger.done} of {lines.count} lines are answered; the same command goes on with the others")
            raise
        finally:
            service.close()
        seconds, generated = time.perf_counter() - begun, llm.statistics().generated_tokens
        speed = f"{generated} tokens generated, {generated / seconds:.1f} tok/s"
        note(f"{ledger.done - before} lines in {seconds:.1f} s: {speed}")


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: {error}") from error


def _named(lines: Lines) -> str | None:
    """The model that the first request names, if there is one and it does."""
    try:
        found = json.loads(next(iter(lines))[1] or b"")
    except (ValueError, RecursionError):
        return None
    body = found.get("body", found) if isinstance(found, dict) else None
    name = body.get("model") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None


def _summarize(out: Path, tally: Tally) -> None:
    errors = f", {tally.errors} of them errors; the first: {tally.first_error}" if tally.errors else ""
    note(f"{out}: {tally.lines} lines{errors}")
