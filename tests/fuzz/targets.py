"""What is fuzzed, by name: where it starts, what reads its files, and what an outcome must be."""

import os
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import seeds
from mutations import Files, mutate

from ellm.checkpoint import open_checkpoint, safetensors_file
from ellm.checkpoint.json_file import read_json
from ellm.checkpoint.sources import check_tensors
from ellm.compiled import Options, Source, compile_model
from ellm.scheduler.placement import Placement
from ellm.serving.model_sampling import read_sampling
from ellm.system.errors import InputError
from ellm.text.chat_template import ChatTemplate, Conversation
from ellm.text.tokenizer import Tokenizer

_TEXTS = ("abc the hello <s> a\n", " \t123 don't 日本 é 🙂 <|im_end|>x")
_MOST_LAYERS, _MOST_EXPERTS, _MOST_WIDTH = (
    4,
    64,
    4096,
)  # of configurations that are compiled: larger ones take their time


class Finding(AssertionError):
    """An outcome that must not be; the text says which."""


@dataclass(frozen=True)
class Target:
    """`read` takes the folder with the files, and says something about what it made of them.

    `fixed` are files that stay as they are.
    """

    seeds: Callable[[], list[Files]]
    read: Callable[[Path], object]
    fixed: tuple[str, ...] = ()


def _read_safetensors(folder: Path) -> int:
    path = folder / "model.safetensors"
    found = safetensors_file.read_tensors(path)
    for tensor in found.values():
        rows = tensor.shape[0] if tensor.shape else 1
        if tensor.offset < 8 or tensor.offset + rows * tensor.row_bytes > path.stat().st_size:
            raise Finding(f"{tensor.name} is not within the file")
    return len(found)


def _read_config(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint:
        checkpoint.tokenizer  # noqa: B018
        return _compile(checkpoint)


def _read_gguf(folder: Path) -> str:
    with open_checkpoint(folder / "model.gguf") as checkpoint:
        _use(checkpoint.tokenizer)
        return _compile(checkpoint)


def _read_packed(folder: Path) -> str:
    """A packed file of this header, with its checksum, and with these metadata; its weights are zeros."""
    path = folder / "model"
    found = {file.stem: file.read_bytes() for file in folder.iterdir() if file.suffix == ".json"}
    seeds.write_packed(path, found.pop("header", b""), found)
    with open_checkpoint(path) as checkpoint:
        packed = checkpoint.packed
        assert packed
        if found:
            _use(checkpoint.tokenizer)
        said = _compile(checkpoint)
        if _seldom(packed.header.digest):
            program = compile_model(Source.of(checkpoint), Options(context=64, chunk=16, drafter=True)).program
            packed.check_fits(program)
            packed.map(program, Placement([0], pinned=False)).close()
        return said


def _read_tokenizer(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint:
        return _use(checkpoint.tokenizer)


def _read_template(folder: Path) -> str:
    try:
        conversation = read_json(folder / "conversation.json")
        text = (folder / "chat_template.jinja").read_text()
    except (InputError, OSError, UnicodeDecodeError):
        return "no template"
    known = {key: conversation[key] for key in Conversation.__dataclass_fields__ if key in conversation}
    template = ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}, str(folder))
    arranged = template.arranged(Conversation(**{"messages": None, **known}))
    for rendered in template.render([arranged]):
        if isinstance(rendered, InputError):
            raise rendered
    return "rendered"


def _compile(checkpoint) -> str:
    source = Source.of(checkpoint)
    config = source.model.config
    read_sampling(checkpoint.generation, checkpoint.generation_file, source.model.longest)
    experts = max((value for name, value in vars(config).items() if "experts" in name), default=0)
    widths = (value for name, value in vars(config).items() if name.endswith(("_size", "_dim", "_rank", "_heads")))
    if config.num_hidden_layers > _MOST_LAYERS or experts > _MOST_EXPERTS or max(filter(None, widths)) > _MOST_WIDTH:
        return "large"
    if _seldom(f"{source.model.family} {config}"):
        program = compile_model(source, Options(context=min(64, source.model.longest), chunk=16)).program
        if not checkpoint.packed:
            check_tensors(program.weights, checkpoint)
    return source.model.family


def _use(tokenizer: Tokenizer) -> str:
    for text in _TEXTS:
        ids = tokenizer.encode(text)
        tokenizer.decode(ids, skip_special=False)
    tokenizer.decode(range(12))
    if tokenizer.has_chat_template and _seldom(str(ids)):
        tokenizer.chat([{"role": "user", "content": _TEXTS[0]}])
    return type(tokenizer.backend).__name__


def _seldom(value: str) -> bool:
    """Whether to do what takes a hundred times as long as the rest: for one in eight of these."""
    return zlib.crc32(value.encode(errors="surrogatepass")) % 8 == 0


TARGETS = {
    "safetensors": Target(seeds.safetensors, _read_safetensors),
    "gguf": Target(seeds.ggufs, _read_gguf),
    "packed": Target(seeds.packed, _read_packed),
    "tokenizer": Target(seeds.tokenizers, _read_tokenizer, ("model.safetensors",)),
    "config": Target(
        seeds.configs, _read_config, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    ),
    "template": Target(seeds.templates, _read_template),
}


def outcome(target: Target, folder: Path, files: Files) -> str:
    """What comes of these files, as numbers and quoted words left out. Raises Finding if that must not be."""
    _write(folder, files)
    try:
        return f"taken: {target.read(folder)}"
    except InputError as error:
        line = str(error)
    except (KeyboardInterrupt, Finding):
        raise
    except BaseException as error:
        raise Finding(_where(error)) from error
    if len(line.splitlines()) != 1:
        raise Finding(f"not one line: {line[:300]!r}")
    return re.sub(r"'.*'|\".*\"|[\d.]+", "#", line.replace(str(folder), ""))[:120]


def _write(folder: Path, files: Files) -> None:
    for name in os.listdir(folder):
        if name not in files:
            (folder / name).unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _where(error: BaseException) -> str:
    """The error, and the innermost line of ours that it went through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/tests/" not in code.co_filename and "/site-packages/" not in code.co_filename:
            place = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}: {str(error)[:200]}"


class Fuzzer:
    """Draws inputs for a target: changes of its seeds, and of inputs that had an outcome of their own."""

    def __init__(self, target: Target, seed: int | str):
        self._target, self._draw = target, random.Random(seed)
        self._seeds = target.seeds()
        self._grown: list[Files] = []
        self.outcomes: set[str] = set()

    def next(self) -> Files:
        """The next input."""
        grown = self._grown and self._draw.random() < 0.5
        files = self._draw.choice(self._grown if grown else self._seeds)
        return mutate(self._draw, files, self._seeds, self._target.fixed)

    def learn(self, files: Files, found: str) -> None:
        """What came of it."""
        if found not in self.outcomes:
            self.outcomes.add(found)
            self._grown.append(files)
