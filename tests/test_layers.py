"""Who may import whom: one straight chain, ellm -> models -> dsl -> scheduler -> kernels, and nothing points up."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW_ALL = "ellm.system.errors"  # imports nothing of ours
# What is known of kernels, not these.
KNOWN = [f"ellm.kernels.{name}" for name in ("contract", "formats", "records", "routes")]
ALLOWED = {
    "kernels": ["ellm.kernels", BELOW_ALL],
    "scheduler": ["ellm.scheduler", "ellm.kernels", BELOW_ALL],
    "dsl": ["ellm.dsl", "ellm.scheduler.program", "ellm.scheduler.contents", *KNOWN, BELOW_ALL],
    "models": ["ellm.models", "ellm.dsl", "ellm.kernels.formats", BELOW_ALL],
    "ellm": ["ellm"],
}
ROOMS = {  # of ellm/: which of the others each knows, and which layers
    "system": set(),
    "text": {"system"},
    "pages": set(),
    "checkpoint": {"system", "text", "scheduler", "kernels"},
    "machine": {"system", "scheduler", "kernels"},
    "program_cache": {"system", "scheduler"},
    "compiled": {"system", "checkpoint", "program_cache", "models", "dsl", "scheduler", "kernels"},
    "pack": {"system", "checkpoint", "compiled", "dsl", "scheduler", "kernels"},
    "pack_cache": {"system", "checkpoint", "pack"},
    "serving": {"system", "text", "checkpoint", "compiled", "scheduler", "kernels"},
    "llm": {"system", "text", "checkpoint", "compiled", "pack_cache", "serving", "scheduler", "kernels"},
    "server": {"system", "text", "llm", "serving", "pages"},
    "evaluation": set(),
    "batch": {"system", "text", "checkpoint", "server", "serving", "scheduler"},
    "predict": {"system", "machine", "serving", "scheduler", "kernels"},
    "inspection": {"system", "predict", "pages", "scheduler", "kernels"},
    "profiling": {"system", "machine", "serving", "predict", "inspection", "scheduler", "kernels"},
    "cli": {"system", "checkpoint", "machine", "compiled", "pack", "llm", "serving", "predict", "inspection"}
    | {"batch", "server", "evaluation", "profiling", "pages", "scheduler", "kernels"},
    "__init__": {"llm", "serving", "system"},
}
LINKS = ["dsl", "kernels", "models", "scheduler"]
INCLUDE_FOLDERS = {"kernels": ["kernels"], "scheduler": ["scheduler", "kernels"]}

CIMPORT = re.compile(r"^\s*from\s+([.\w]+)\s+c?import\s+(\([^)]*\)|[^#\n]+)|^\s*c?import\s+([^#\n]+)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*include\s+[\'"](.+?)[\'"]|^\s*cdef\s+extern\s+from\s+[\'"]([^<].*?)[\'"]', re.MULTILINE)
C_INCLUDE = re.compile(r'^\s*#\s*include\s+"(.+?)"', re.MULTILINE)


def python_imports(text: str, package: str) -> list[str]:
    """Full names that Python source in `package` imports, each up to the imported name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute("." * node.level + (node.module or ""), package)
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def cython_imports(text: str, package: str) -> list[str]:
    """The same for Cython source: import and cimport lines."""
    found = []
    for module, names, modules in CIMPORT.findall(text):
        if modules:
            found += [name.split()[0] for name in modules.split(",")]
        else:
            listed = [name.split()[0] for name in names.strip("() ").split(",") if name.strip()]
            found += [f"{absolute(module, package)}.{name}" for name in listed]
    return found


def absolute(module: str, package: str) -> str:
    """`module` with its leading dots resolved against `package`."""
    level = len(module) - len(module.lstrip("."))
    if not level:
        return module
    base = package.split(".")
    return ".".join([*base[: len(base) - level + 1], *filter(None, [module[level:]])])


def offences(layer: str, names: list[str]) -> list[str]:
    """The imports that `layer` must not have."""

    def inside(name: str, prefix: str) -> bool:
        return name == prefix or name.startswith(f"{prefix}.")

    wrong = [name for name in names if name.split(".")[0] in LINKS]
    ours = [name for name in names if inside(name, "ellm")]
    wrong += [name for name in ours if not any(inside(name, prefix) for prefix in ALLOWED[layer])]
    if layer in ("scheduler", "kernels"):
        wrong += [name for name in names if inside(name, "networkx")]
    return wrong


def room_offences(room: str, names: list[str]) -> list[str]:
    """The imports that a room of ellm/ must not have; what `ellm` itself hands on is for its users alone."""
    known = {room, "__version__", *ROOMS[room]}
    return [name for name in names if name.split(".")[0] == "ellm" and (*name.split("."), "")[1] not in known]


def sources(layer: str, *suffixes: str) -> list[Path]:
    folder = ROOT / layer
    found = [file for file in folder.rglob("*") if file.suffix in suffixes]
    return sorted(file for file in found if not any(parent.is_symlink() for parent in file.parents))


def package_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parent.parts
    return ".".join(parts if parts[0] == "ellm" else ("ellm", *parts))


@pytest.mark.parametrize("layer", ALLOWED)
def test_nothing_points_up(layer):
    python, cython = sources(layer, ".py"), sources(layer, ".pyx", ".pxd", ".pxi")
    assert python, f"{layer} has no source files"
    wrong = {}
    for file in [*python, *cython]:
        read = python_imports if file in python else cython_imports
        wrong[str(file.relative_to(ROOT))] = offences(layer, read(file.read_text(), package_of(file)))
    assert {file: names for file, names in wrong.items() if names} == {}


def test_rooms_know_only_the_rooms_of_the_table():
    wrong = {}
    for file in sources("ellm", ".py"):
        room = file.relative_to(ROOT / "ellm").parts[0].removesuffix(".py")
        wrong[str(file.relative_to(ROOT))] = room_offences(room, python_imports(file.read_text(), package_of(file)))
    assert {file: names for file, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("serving", "from ellm.predict.planner import Planner"),
        ("serving", "def f():\n    from ellm.inspection import text"),
        ("serving", "import ellm.predict.routes"),
        ("serving", "from ..inspection import text"),
        ("checkpoint", "from ellm.serving.runtime import Runtime"),
        ("checkpoint", "from ellm import LLM"),
        ("checkpoint", "import ellm"),
        ("system", "from ellm.kernels import contract"),
    ],
)
def test_the_table_catches_imports_of_other_rooms(room, text):
    assert room_offences(room, python_imports(text, f"ellm.{room}"))


@pytest.mark.parametrize("layer", ALLOWED)
def test_included_files_lie_in_the_layer_or_below(layer):
    wrong = []
    for file in sources(layer, ".pyx", ".pxd", ".pxi", ".h"):
        pattern = INCLUDE if file.suffix.startswith(".p") else C_INCLUDE
        for match in pattern.finditer(file.read_text()):
            name = next(filter(None, match.groups()))
            folders = [ROOT / folder for folder in INCLUDE_FOLDERS.get(layer, [])]
            if "/" in name or not any((folder / name).is_file() for folder in folders):
                wrong.append(f"{file.relative_to(ROOT)}: {name}")
    assert wrong == []


@pytest.mark.parametrize("name", LINKS)
def test_root_folders_are_linked_into_the_package(name):
    link = ROOT / "ellm" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_no_file_imports_a_root_folder_as_a_package():
    wrong = {}
    for file in [*ROOT.glob("*.py"), *sources("tests", ".py"), *sources("bench", ".py")]:
        names = python_imports(file.read_text(), "")
        wrong[str(file.relative_to(ROOT))] = [name for name in names if name.split(".")[0] in LINKS]
    assert {file: names for file, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("kernels", "from ellm.scheduler import Pool"),
        ("kernels", "from ..dsl import ops"),
        ("scheduler", "import networkx as nx"),
        ("scheduler", "def f():\n    from ellm.dsl.ops import linear"),
        ("dsl", "from ellm.scheduler import Pool"),
        ("dsl", "from ellm.kernels import isa"),
        ("dsl", "import ellm"),
        ("models", "from ellm.scheduler.program import Program"),
        ("models", "from .. import llm"),
        ("ellm", "import dsl"),
    ],
)
def test_the_rule_catches_python_imports(layer, text):
    package = "ellm" if layer == "ellm" else f"ellm.{layer}"
    assert offences(layer, python_imports(text, package))
    assert offences(layer, cython_imports(text, package))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("kernels", "from ellm.scheduler.worker cimport Worker"),
        ("kernels", "cimport ellm.scheduler.worker"),
        ("scheduler", "from libc.math cimport exp\nfrom ellm.dsl cimport plan"),
        ("kernels", "from libc.math cimport (\n    exp,\n    log,\n)\nfrom ..scheduler cimport (\n    worker,\n)"),
    ],
)
def test_the_rule_catches_cimports(layer, text):
    assert offences(layer, cython_imports(text, f"ellm.{layer}"))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("dsl", "from ellm.kernels import contract"),
        ("dsl", "from .ops import linear"),
        ("models", "from ellm.dsl import linear, rms_norm"),
        ("scheduler", "from ellm.kernels import contract"),
        ("ellm", "from ellm.scheduler import Pool"),
    ],
)
def test_the_rule_lets_downward_imports_pass(layer, text):
    package = "ellm" if layer == "ellm" else f"ellm.{layer}"
    assert offences(layer, python_imports(text, package)) == []
