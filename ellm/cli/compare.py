"""`ellm compare`: how far one model, or one way to run it, is from another on a text.

`--json` prints one object: `a` and `b` (each `model` and `options`), `text`, `windows`, `window` (tokens of each),
`left_over` (tokens) and the fields of `Summary`, means as `value` and `error`.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ellm.checkpoint import open_checkpoint
from ellm.cli.skipped import note_price, note_skipped
from ellm.cli.terminal import counting, loading, note
from ellm.compiled import Source
from ellm.evaluation.divergence import Divergence, Mean, Summary
from ellm.evaluation.windows import Windows
from ellm.llm import LLM
from ellm.scheduler.placement import NONE
from ellm.serving.runtime import NoRoom
from ellm.system.errors import InputError, one_line
from ellm.system.memory import readable

LEAST = 2  # tokens of a text: one to foretell, and one to foretell it from
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class Side:
    """One of the two: a model and options of LLM for it alone."""

    model: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join([self.model, *(f"{name}={value}" for name, value in self.options.items())])

    def open(self, **options: Any) -> LLM:
        """The model, loaded under a progress bar."""
        with loading(self.model) as progress:
            llm = LLM(self.model, needs_text=True, progress=progress, **self.options, **options)
        note_skipped(llm.runtime)
        note_price(llm.runtime)
        return llm


def compare(
    a: str,
    b: str,
    text: str,
    *,
    context: int,
    most: int | None,
    options_a: list[str],
    options_b: list[str],
    threads: int | None,
    pin: str,
    as_json: bool,
) -> None:
    """Run both on every window of the text, at most `most` of them, and print. Raises InputError."""
    sides = Side(a, parse("--a", options_a)), Side(b, parse("--b", options_b))
    if context < LEAST:
        raise InputError(f"--context must be at least {LEAST}, not {context}")
    if most is not None and most < 1:
        raise InputError(f"--windows must be at least 1, not {most}")
    windows = read_windows(sides, text, context, most)
    summary = measure(sides, windows, {"context": windows.length, "threads": threads, "pin": pin})
    show = as_object if as_json else as_text
    print(show(sides, windows, text, summary))


def parse(option: str, texts: list[str]) -> dict[str, Any]:
    """KEY=VALUE of --a or --b as options of LLM. Raises InputError."""
    kinds: dict[str, Callable[[str], Any]] = {
        "dtype": str,
        "activations": str,
        "kv": str,
        "isa": str,
        "expanded-prefill": _flag,
    }
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in kinds or not equals:
            raise InputError(f"{option} must be KEY=VALUE with KEY one of {', '.join(kinds)}, not {text!r}")
        found[key.replace("-", "_")] = kinds[key](value)
    return found


def _flag(text: str) -> bool:
    if text not in _FLAGS:
        raise InputError(f"expanded-prefill must be true or false, not {text!r}")
    return _FLAGS[text]


def read_windows(sides: tuple[Side, Side], file: str, context: int, most: int | None) -> Windows:
    """The windows of a text, by the tokenizer of both sides. Raises InputError if they disagree."""
    content = read_text(file)
    ids, starts, sizes = [], [], []
    for side in sides:
        with open_checkpoint(side.model) as checkpoint:
            tokenizer, sizes_of = checkpoint.tokenizer, Source.of(checkpoint).model.config.vocab_size
        ids.append(tokenizer.encode(content, add_special=False))
        around = tokenizer.encode("")
        starts.append(tuple(around[:1]) if around[:1] == [tokenizer.bos_id] else ())
        sizes.append(sizes_of)
    names = f"{sides[0].model} and {sides[1].model}"
    if sizes[0] != sizes[1]:
        raise InputError(f"{names} cannot be compared: their vocabularies have {sizes[0]} and {sizes[1]} tokens")
    if ids[0] != ids[1] or starts[0] != starts[1]:
        raise InputError(f"{names} cannot be compared: their tokenizers make other tokens of {file}")
    tokens = np.array(ids[0], np.int32)
    if len(tokens) + len(starts[0]) < LEAST:
        raise InputError(f"{file}: has {len(tokens)} tokens, {LEAST} are the least to compare models on")
    windows = Windows(tokens, starts[0], context)
    if windows.step < 1:
        raise InputError(f"--context {context}: a window begins with {len(starts[0])} tokens of its own")
    if most is not None:
        windows = Windows(tokens[: most * windows.step], starts[0], context)
    return windows


def read_text(file: str) -> str:
    """A file of text. Raises InputError."""
    try:
        content = Path(file).expanduser().read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"{file}: cannot be read: {reason}") from error
    if not content:
        raise InputError(f"{file}: is empty")
    return content


def measure(sides: tuple[Side, Side], windows: Windows, options: dict[str, Any]) -> Summary:
    """Run both over all windows: side by side if both fit in memory, else B after A, whose logits wait in a file."""
    found = Divergence()
    with ExitStack() as opened:
        first = opened.enter_context(sides[0].open(**options))
        try:
            second = opened.enter_context(sides[1].open(**beside(first, options)))
            theirs = live(first, windows)
        except NoRoom:
            theirs = kept(first, windows, opened.enter_context(tempfile.TemporaryFile()))
            second = opened.enter_context(sides[1].open(**options))
        opened.enter_context(closing(theirs))  # before the models are
        with counting("comparing", windows.count) as advance:
            for window in windows:
                at = windows.first
                for logits in second.logits_by_step(window, windows.first):
                    rows = min(len(logits), len(window) - 1 - at)  # the last position has nothing after it
                    found.add(next(theirs)[:rows], logits[:rows], window[at + 1 : at + 1 + rows])
                    at += len(logits)
                advance()
    return found.summary()


def beside(llm: LLM, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the cores of a model that is loaded, which waits while the other one runs."""
    placement = llm.runtime.pool.placement
    pin = ",".join(map(str, placement.cores)) if placement.pinned else NONE
    return options | {"threads": len(placement.cores), "pin": pin}


def live(llm: LLM, windows: Windows) -> Generator[np.ndarray, None, None]:
    """The logits of a model on all windows, step by step, when they are asked for."""
    for window in windows:
        yield from llm.logits_by_step(window, windows.first)


def kept(llm: LLM, windows: Windows, file: IO[bytes]) -> Generator[np.ndarray, None, None]:
    """Run a model over all windows into a file, close it, and give its logits back, step by step. Raises InputError."""
    needed = 4 * llm.runtime.program.vocab * windows.count * (windows.length - windows.first)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    note(f"both do not fit in memory at a time: {readable(needed)} of logits wait in {folder}")
    if needed > free:
        raise InputError(f"{folder}: the logits of one model need {readable(needed)}, {readable(free)} are free")
    shapes = []
    with counting("running the first", windows.count) as advance:
        for window in windows:
            for logits in llm.logits_by_step(window, windows.first):
                logits.tofile(file)
                shapes.append(logits.shape)
            advance()
    llm.close()
    file.seek(0)
    return (np.fromfile(file, np.float32, math.prod(shape)).reshape(shape) for shape in shapes)


def as_text(sides: tuple[Side, Side], windows: Windows, file: str, summary: Summary) -> str:
    """A table for people."""
    a, b, half = summary.perplexity_a, summary.perplexity_b, "the second half of each" if windows.first else "all"
    left = f", {windows.left_over} tokens left over" if windows.left_over else ""
    count = f"{windows.count} window{'s' * (windows.count > 1)} of {windows.length} tokens"
    return "\n".join(
        [
            f"A            {sides[0]}",
            f"B            {sides[1]}",
            f"text         {file}: {count}; {summary.positions} positions scored: {half}{left}",
            f"KL(A || B)   {_shown(summary.kl)} nats; median {summary.kl_median:.3g}, 99 % {summary.kl_99:.3g}, "
            f"most {summary.kl_max:.3g}",
            f"same top-1   {summary.same_top.value:.2%} ± {summary.same_top.error:.2%}",
            f"perplexity   A {_shown(a)}, B {_shown(b)}, B / A {b.value / a.value:.4f}",
        ]
    )


def _shown(mean: Mean) -> str:
    """A mean to the second digit of its error."""
    if not mean.error:
        return f"{mean.value:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(mean.error)))
    return f"{mean.value:.{digits}f} ± {mean.error:.{digits}f}"


def as_object(sides: tuple[Side, Side], windows: Windows, file: str, summary: Summary) -> str:
    """One JSON object."""
    ran = {name: asdict(side) for name, side in zip("ab", sides, strict=True)}
    text = {"text": file, "windows": windows.count, "window": windows.length, "left_over": windows.left_over}
    return json.dumps(ran | text | asdict(summary), indent=2)
