"""Writes the last section of docs/models.md: which forms of each family run, and the lines that refuse others.

Run: python tests/helpers/make_tables.py

Everything is asked of the code: its records of families, formats and ropes, and its readers, with a minimal model of
each form (probes.py).
"""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import gguf
import probes
from gguf import GGMLQuantizationType
from quantized import FORMS

from ellm.kernels.formats import FORMATS
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.models import ARCHITECTURES, from_config
from ellm.models.frequencies import ALIASES, KINDS
from ellm.models.precision import METHODS
from ellm.system.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN = "## What runs\n"
QUANTIZATIONS = ("awq", "bitsandbytes", "compressed-tensors", "fbgemm_fp8", "gptq", "modelopt", "quark", "torchao")
"""What checkpoints have besides, as quant_method."""
IN_SAFETENSORS = [one.name for one in FORMATS.values() if not one.blocked and not one.packs]
OTHER_ROPES = ("axial", "ntk", "xdrope")
IN_GGUF = " in GGUF"
MOST_NAMES = 25  # in a cell
Said = dict[str, str | None]
"""By the name of a form, the line that refuses it, if any does."""


def main() -> None:
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + section())


def section() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [
            [
                BEGIN,
                "`python tests/helpers/make_tables.py` writes this section: it gives a minimal model of each form to",
                "the readers. MODEL stands for the model's path, NAME for the form.",
            ],
            families(folder),
            quantizations(),
            ropes(),
            partial_ropes(),
            gguf_types(folder),
            tokenizers(folder),
        ]
        return "\n\n".join("\n".join(part) for part in parts) + "\n"


def families(folder: Path) -> list[str]:
    found, refused = gguf_names(folder)
    heads = [
        "`architectures`",
        *(f"safetensors in {name}" for name in IN_SAFETENSORS),
        "GGUF of `general.architecture`",
    ]
    rows = []
    for architecture in ARCHITECTURES:
        names = ", ".join(f"`{name}`" for name in found.get(architecture, ())) or "refused"
        rows.append([f"`{architecture}`", *(stored(architecture, name) for name in IN_SAFETENSORS), names])
    unknown = probes.line(lambda: from_config({"architectures": ["NAME"]}))
    return [
        "### Families",
        "",
        *table(heads, rows),
        "",
        "-: a family of which nothing is stored in this format. Others are refused:",
        "",
        *table(["", ""], [["`architectures`", f"`{unknown}`"], *refusals(refused)]),
    ]


def stored(architecture: str, name: str) -> str:
    """Whether a family's weights run in a format."""
    try:
        return "runs" if name in probes.stored_formats(architecture, probes.precision(name)) else "-"
    except InputError as error:
        return f"refused: `{error}`"


def gguf_names(folder: Path) -> tuple[dict[str, list[str]], Said]:
    """Values of general.architecture by what they are computed as, and what others are refused with."""
    found: dict[str, list[str]] = {}
    refused: Said = {}
    for name in sorted(gguf.MODEL_ARCH_NAMES.values()):
        try:
            for architecture in probes.gguf_architectures(name, folder):
                found.setdefault(architecture, []).append(name)
        except InputError as error:
            refused[name] = probes.told(error, folder / f"{name}.gguf")
    return found, refused


def quantizations() -> list[str]:
    said = {name: probes.quantization(name) for name in QUANTIZATIONS if name not in METHODS}
    heads = ["`quantization_config`", *(f"in a {dtype} model" for dtype in ("bfloat16", "float16"))]
    rows = [
        [name, *(probes.packed_in(form, dtype) for dtype in ("bfloat16", "float16"))] for name, form in FORMS.items()
    ]
    return [
        "### Quantised safetensors",
        "",
        "What matrices are kept in, and bits of a weight, in every family:",
        "",
        *table(heads, rows),
        "",
        *table(["`quant_method`", ""], refusals(said)),
    ]


def ropes() -> list[str]:
    rows: list[list[str]] = []
    refused: Said = {}
    for kind in (*KINDS, *ALIASES, *OTHER_ROPES):
        try:
            model = probes.rope(kind)
        except InputError as error:
            refused[kind] = str(error)
            continue
        line = probes.line(lambda model=model: model.context)
        rows.append([f"`{kind}`", str(model.longest), f"refused: `{line}`" if line else str(model.context)])
    return [
        "### Rope",
        "",
        f"In every family; here with `factor` {probes.FACTOR}, `max_position_embeddings` {probes.MAX_POSITION} and,",
        f"where the kind has that, `original_max_position_embeddings` {probes.ORIGINAL}:",
        "",
        *table(["`rope_type`", "longest sequence", "without `--context`"], rows),
        "",
        *table(["refused", ""], refusals(refused)),
    ]


def partial_ropes() -> list[str]:
    said = {architecture: probes.partial_rope(architecture) for architecture in ARCHITECTURES}
    runs = ", ".join(f"`{name}`" for name, line in said.items() if line is None)
    return [f"`partial_rotary_factor` 0.5 runs in {runs}.", "", *table(["refused", ""], refusals(said))]


def gguf_types(folder: Path) -> list[str]:
    said = {kind.name: probes.gguf_type(kind, folder) for kind in GGMLQuantizationType}
    read = [name for name, line in said.items() if line is None]
    kept, rounded = (", ".join(name for name in read if (name in BLOCKS) is inside) for inside in (True, False))
    runs = [f"These run as they are stored: {kept}.", "", f"These are rounded to bf16 once: {rounded}."]
    return ["### Types of GGUF tensors", "", *runs, "", *table(["refused", ""], refusals(said))]


def tokenizers(folder: Path) -> list[str]:
    said = {f"folder with {files}": probes.folder_tokenizer(files, folder) for files in probes.FILES}
    said |= {f"{name}{IN_GGUF}": probes.gguf_tokenizer(name, folder) for name in probes.TOKENIZERS}
    said[f"gpt2 with an unknown pre-tokenizer{IN_GGUF}"] = probes.gguf_tokenizer("gpt2", folder, pre="NAME")
    runs = [[name, "runs"] for name, line in said.items() if line is None]
    return ["### Tokenizers", "", *table(["", ""], [*runs, *refusals(said)])]


def refusals(said: Said) -> list[list[str]]:
    """Rows of names and the line that refuses them, those of one line together."""
    lines: dict[str, list[str]] = {}
    for name, line in said.items():
        if line is not None:
            own = re.compile(rf"(?<!\w){re.escape(name.removesuffix(IN_GGUF))}(?!\w)")
            lines.setdefault(own.sub("NAME", line), []).append(name)
    return [[shortened(names), f"`{line}`"] for line, names in lines.items()]


def shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else "all others"


def table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """In Markdown; nothing if there are no rows."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)] if cells else []


if __name__ == "__main__":
    main()
