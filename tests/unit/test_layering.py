"""An import only points downward: the table of ARCHITECTURE.md, read off the syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aegis"

# Room to the rooms it may import. A dotted entry allows that one file of the room only.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "model": frozenset({"errors", "_native.policy_json"}),
    "_native": frozenset(),
    "host": frozenset({"errors", "model", "_native._system"}),
    "kernel": frozenset({"errors", "model", "_native"}),
    "runtime": frozenset({"errors", "model"}),
    "protocol": frozenset({"errors", "model"}),
    "modules": frozenset(
        {
            "errors",
            "model",
            "runtime",
            "_native.flow_records",
            "_native.flowtable",
            "_native.processes",
            "_native.records",
        }
    ),
    "agent": frozenset({"errors", "model", "protocol", "_native", "host", "kernel", "runtime", "modules"}),
    "gateway": frozenset({"errors", "model", "protocol", "runtime", "_native.seal"}),
    "cli": frozenset(
        {"errors", "model", "protocol", "_native", "host", "kernel", "runtime", "modules", "agent", "gateway"}
    ),
}

# A name, and the only places that may import it.
ONLY_FROM: dict[str, tuple[str, ...]] = {
    "aegis._native._libbpf": ("aegis/kernel/",),
    "aegis._native.ringbuf": ("aegis/kernel/",),
    # A thread enters a namespace of its own to try clsact; libbpf's words are kept by thread. Nothing else has threads.
    "threading": ("aegis/runtime/offload.py", "aegis/kernel/features.py", "aegis/kernel/library.py"),
    "concurrent": (),
    "time": ("aegis/runtime/clock.py", "aegis/cli/"),
    # What the agent's process must not load; each belongs to the extra `gateway`.
    "litestar": ("aegis/gateway/",),
    "uvicorn": ("aegis/gateway/",),
    "sqlalchemy": ("aegis/gateway/",),
    "alembic": ("aegis/gateway/",),
    "aiosqlite": ("aegis/gateway/",),
    "prometheus_client": ("aegis/gateway/",),
    # The tool's demo starts the agent, and a build script (the only Python there) the compiler; the agent nothing.
    "subprocess": ("aegis/cli/", "aegis/_native/"),
    "multiprocessing": (),
}

# Values have no I/O and no clock.
FORBIDDEN_IN: dict[str, frozenset[str]] = {
    "aegis/model/": frozenset({"asyncio", "socket", "time", "random", "os", "threading", "uvloop"}),
    # Sans-IO: instants and entropy are arguments.
    "aegis/protocol/": frozenset(
        {"asyncio", "socket", "time", "random", "os", "secrets", "threading", "uvloop", "websockets"}
    ),
}

VAGUE = frozenset({"utils", "util", "helpers", "common", "core", "manager"})


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name, and whether it stands at the top level of the file, of each import.

    `from a.b import c` yields `a.b.c`: whether c is a module or a name in one does not change the room.
    """
    top = set(map(id, ast.iter_child_nodes(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            prefix = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}", id(node) in top


def room_of(name: str) -> str:
    """`aegis.kernel.maps` is in `kernel`; `aegis` itself has no room."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def within(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(wanted + ".")


def violations(source: str, path: str) -> Iterator[str]:
    """Sentences with path and line, one for each import of `source` that points the wrong way."""
    module = path.removesuffix(".py").replace("/", ".")
    package = module.removesuffix(".__init__") if module.endswith(".__init__") else module.rpartition(".")[0]
    here = room_of(module)
    for line, name, at_top in imports(ast.parse(source), package):
        place = f"{path}:{line}: imports {name}"
        for wanted, allowed in ONLY_FROM.items():
            if within(name, wanted) and not any(path.startswith(prefix) for prefix in allowed):
                yield f"{place}; only {' and '.join(allowed) or 'nothing in the agent'} may"
        for prefix, forbidden in FORBIDDEN_IN.items():
            if path.startswith(prefix) and any(within(name, wanted) for wanted in forbidden):
                yield f"{place}; nothing in {prefix} may"
        if not within(name, "aegis") or not (there := room_of(name)) or here in {"", there}:
            continue
        if there not in MAY_IMPORT:
            continue  # a name of the package itself, such as its version
        allowed_rooms = MAY_IMPORT.get(here, frozenset())
        exact = {entry for entry in allowed_rooms if "." in entry}
        if there not in allowed_rooms and not any(within(name, f"aegis.{entry}") for entry in exact):
            yield f"{place}; {here} may import {', '.join(sorted(allowed_rooms)) or 'nothing'}"
        if here == "cli" and there == "agent" and at_top:
            yield f"{place}; cli imports {there} inside functions only"
    if here == "modules":
        yield from module_violations(source, path, package)


def module_violations(source: str, path: str, package: str) -> Iterator[str]:
    """A module never imports another one."""
    own = path.split("/")[2].removesuffix(".py")
    for line, name, _ in imports(ast.parse(source), package):
        parts = name.split(".")
        if parts[:2] == ["aegis", "modules"] and len(parts) > 2 and parts[2] != own and own != "__init__":
            yield f"{path}:{line}: imports {name}; modules never import each other"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_imports_point_downward() -> None:
    wrong = [
        sentence
        for path in sources()
        for sentence in violations(path.read_text(), path.relative_to(ROOT).as_posix())
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_each_room_is_in_the_table() -> None:
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert rooms - {"__init__", "__main__"} <= set(MAY_IMPORT)


def test_the_table_in_the_document_is_this_one() -> None:
    """Rooms that may import all below them are said in words there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| (.+?) \|$", text, re.MULTILINE))
    assert set(MAY_IMPORT) == set(rows) - {"room"}
    for room in set(MAY_IMPORT) - {"agent", "cli"}:
        said = re.sub(r"\(.*?\)", "", rows[room]).replace("`", "")
        assert set(said.replace(" ", "").split(",")) - {"nothing"} == MAY_IMPORT[room], room


def test_no_vague_names() -> None:
    assert [path for path in sources() if {path.stem, path.parent.name} & VAGUE] == []


def test_init_files_only_re_export() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("__init__.py")
        for node in ast.parse(path.read_text()).body
        if not isinstance(node, allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        (
            "aegis/model/flow.py",
            "from aegis.kernel import maps",
            "model may import _native.policy_json, errors",
        ),
        ("aegis/model/flow.py", "import time", "only aegis/runtime/clock.py and aegis/cli/ may"),
        ("aegis/host/proc.py", "def f():\n    from ..kernel import maps", "host may import"),
        ("aegis/modules/telemetry/module.py", "from aegis._native import ringbuf", "only aegis/kernel/ may"),
        ("aegis/modules/telemetry/module.py", "import aegis._native.seal", "modules may import"),
        (
            "aegis/modules/telemetry/module.py",
            "from aegis.modules.analysis import x",
            "never import each other",
        ),
        ("aegis/agent/uplink.py", "import subprocess", "only aegis/cli/"),
        ("aegis/agent/uplink.py", "from multiprocessing import pool", "nothing in the agent may"),
        ("aegis/agent/uplink.py", "from aegis.cli import main", "agent may import"),
        ("aegis/cli/main.py", "from aegis.agent import wiring", "inside functions only"),
    ],
)
def test_a_wrong_import_is_named(path: str, source: str, said: str) -> None:
    assert any(said in sentence and sentence.startswith(f"{path}:") for sentence in violations(source, path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "aegis/modules/telemetry/module.py",
            "from aegis._native import records\nfrom aegis.modules.telemetry import x",
        ),
        ("aegis/kernel/rings.py", "from aegis._native.ringbuf import Ring"),
        ("aegis/cli/main.py", "def f():\n    from aegis.agent import wiring"),
        ("aegis/model/flow.py", "from aegis import __version__"),
        ("aegis/runtime/clock.py", "import time"),
    ],
)
def test_a_right_import_is_left_alone(path: str, source: str) -> None:
    assert list(violations(source, path)) == []
