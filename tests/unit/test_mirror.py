"""tests/unit mirrors aegis/: a test file stands where its subject stands and is called after it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests/unit"

# Test files about more than one source file, or about none of aegis/.
OTHERS = {
    "agent/test_imports.py": "what the agent's process may load",
    "host/test_testers.py": "the workloads of tests/support",
    "protocol/test_deployed.py": "what deployed peers need, and their bugs",
    "protocol/test_rows.py": "the contradictions between documents and deployed programs",
}


def test_each_test_file_has_its_subject() -> None:
    orphans = []
    for path in sorted(UNIT.rglob("test_*.py")):
        relative = path.relative_to(UNIT)
        subject = ROOT / "aegis" / relative.parent / relative.stem.removeprefix("test_")
        here = relative.parent == Path() or relative.as_posix() in OTHERS
        if not here and not subject.with_suffix(".py").exists() and not subject.is_dir():
            orphans.append(relative.as_posix())
    assert orphans == []


def test_the_exceptions_are_still_there() -> None:
    assert [name for name in OTHERS if not (UNIT / name).exists()] == []
