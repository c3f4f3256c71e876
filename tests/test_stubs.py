"""The .pyi files of the Cython modules say what these have, and are shipped."""

import ast
import importlib
from pathlib import Path

import pytest

from ellm.kernels import isa

ROOT = Path(__file__).parent.parent
STUBS = sorted([*ROOT.glob("kernels/*.pyi"), *ROOT.glob("scheduler/*.pyi")])
WITHOUT_PYTHON = {"worker"}  # what it has is for Cython alone


def imported(stub):
    if obstacle := isa.available().get(stub.stem.removeprefix("_")):
        pytest.skip(f"{stub.stem}: {obstacle}")
    return importlib.import_module(f"ellm.{stub.parent.name}.{stub.stem}")


def said(body) -> dict[str, ast.AST]:
    """The names that the statements of a stub define."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname: node for alias in node.names if alias.asname}
    return found


def test_every_module_has_one():
    modules = {path.with_suffix("") for folder in ("kernels", "scheduler") for path in ROOT.glob(f"{folder}/*.pyx")}
    assert {path.stem for path in modules - {stub.with_suffix("") for stub in STUBS}} == WITHOUT_PYTHON


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.stem)
def test_it_says_what_the_module_has(stub):
    module = imported(stub)
    names = said(ast.parse(stub.read_text()).body)
    for name, node in names.items():
        assert hasattr(module, name), name
        if isinstance(node, ast.ClassDef):
            missing = {one for one in said(node.body) if not hasattr(getattr(module, name), one)} - {"code", "op"}
            assert missing == set(), f"{name} has no {missing}"
    public = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert public.keys() <= names.keys()
    for name, value in public.items():
        if isinstance(value, type) and not issubclass(value, Exception):
            own = {one for one in vars(value) if not one.startswith("_")}
            assert own <= said(names[name].body).keys(), name


def test_they_are_shipped():
    project, manifest = ((ROOT / name).read_text() for name in ("pyproject.toml", "MANIFEST.in"))
    assert '"ellm" = ["py.typed"]' in project and "*.pyi" in manifest and "py.typed" in manifest
    for stub in STUBS:
        assert f'"ellm.{stub.parent.name}" = ["' in project
    assert (ROOT / "ellm/py.typed").exists() and project.count('"*.pyi"') == 2
