"""A stub says what its compiled module has: every name, none more."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import aegis

NATIVE = Path(aegis.__file__).parent / "_native"


def declared(stub: str) -> set[str]:
    """Members of the class Library in a stub."""
    tree = ast.parse((NATIVE / stub).read_text())
    library = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Library")
    names = {
        node.target.id
        for node in library.body
        if isinstance(node, ast.AnnAssign)
        if isinstance(node.target, ast.Name)
    }
    return names | {node.name for node in library.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("module", "inherited"), [("_libbpf", "_abi"), ("_system", None)])
def test_stub_and_module_agree(module: str, inherited: str | None) -> None:
    names = set(dir(import_module(f"aegis._native.{module}").lib))
    if inherited is not None:
        names -= set(dir(import_module(f"aegis._native.{inherited}").lib))
    assert names == declared(f"{module}.pyi")
