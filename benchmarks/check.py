"""Runs benchmarks, prints them against their budgets, keeps the raw samples; exit 1 over budget.

    python -m benchmarks.check [NAME...]

NAME is the middle of a file name: `ring` is `benchmarks/bench_ring.py`, whose `run()` returns rows. Each file runs in
an interpreter of its own, so that no measurement inherits another's memory or threads. `budgets.toml` says what a row
must hold and what it should move toward.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.rows import Row

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
BUDGETS = HERE / "budgets.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one row must hold. The bounds are on the ratio where `on` says so, else on the value."""

    row: str
    bench: str
    what: str
    on: Literal["ratio", "value"]
    must_max: float | None = None
    must_min: float | None = None
    toward: float | None = None

    def judged(self, row: Row) -> float | None:
        return row.ratio if self.on == "ratio" else row.value

    def holds(self, row: Row) -> bool:
        """A cost below nothing is the machine's noise: it holds no ceiling, nor does a ratio to such a peer."""
        figure = self.judged(row)
        if figure is None or figure < 0 or row.value < 0 or (row.peer is not None and row.peer <= 0):
            return False
        return (self.must_max is None or figure <= self.must_max) and (
            self.must_min is None or figure >= self.must_min
        )

    def text(self) -> str:
        bounds = [
            f"{sign} {number(bound)}"
            for sign, bound in (("<=", self.must_max), (">=", self.must_min))
            if bound is not None
        ]
        sentence = " and ".join(bounds) + (" x peer" if self.on == "ratio" else "")
        return sentence if self.toward is None else f"{sentence} (toward {number(self.toward)})"


def read_budgets(text: str) -> dict[str, Budget]:
    """Budgets by row name; a table with an unknown key or without a bound is refused."""
    budgets = {row: Budget(row=row, **table) for row, table in tomllib.loads(text).items()}
    for budget in budgets.values():
        if budget.on not in {"ratio", "value"} or (budget.must_max is None and budget.must_min is None):
            raise ValueError(
                f"budgets.toml: {budget.row} needs `on` (ratio or value) and must_max or must_min"
            )
    return budgets


def number(figure: float) -> str:
    """Four significant digits, thousands separated, no exponent."""
    if figure == 0:
        return "0"
    if abs(figure) >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.4g}"


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def commit() -> dict[str, Any]:
    """The commit measured and whether the tree had changes beside earlier results; null with the reason where git cannot tell."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"commit": None, "commit_reason": str(error), "modified": None}
    return {"commit": head.stdout.strip(), "modified": bool(changed.stdout.strip())}


def machine() -> dict[str, Any]:
    """What the figures depend on, without a name of the host."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text().split(maxsplit=2)[1]
    return {
        "cpu": model[0] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_kib": int(memory),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def measure(name: str) -> None:
    """Run one file here and write its result; what `--measure` calls in the child."""
    rows: list[Row] = importlib.import_module(f"benchmarks.bench_{name}").run()
    result = {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    fresh = RESULTS / f"{name}.json.tmp"
    fresh.write_text(json.dumps(result, indent=1) + "\n")
    fresh.replace(RESULTS / f"{name}.json")


def rows_of(name: str) -> list[Row]:
    """Rows of a fresh run in a child interpreter; CalledProcessError when it failed."""
    subprocess.run([sys.executable, "-m", "benchmarks.check", "--measure", name], check=True, cwd=ROOT)
    return [Row(**row) for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]]


def table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def judge(
    measured: dict[str, list[Row]], budgets: dict[str, Budget], complete: Iterable[str]
) -> tuple[str, list[str]]:
    """The table, and a sentence for each thing wrong. A budget of a file in `complete` must have found its row."""
    lines: list[list[str]] = [["ROW", "THIS RUN", "BUDGET", "PEER", "RATIO", "HOLDS"]]
    wrong: list[str] = []
    seen: set[str] = set()
    for rows in measured.values():
        for row in rows:
            budget = budgets.get(row.name)
            holds = budget is None or budget.holds(row)
            if budget and not holds:
                judged = budget.judged(row)
                figure = "no ratio" if judged is None else number(judged)
                wrong.append(f"{row.name}: {figure}, must be {budget.text()}")
            if row.name in seen:
                wrong.append(f"{row.name}: measured twice")
            seen.add(row.name)
            lines.append(
                [
                    row.name,
                    f"{number(row.value)} {row.unit}",
                    budget.text() if budget else "-",
                    "-" if row.peer is None else f"{number(row.peer)} {row.unit}",
                    "-" if row.ratio is None else number(row.ratio),
                    "-" if budget is None else "yes" if holds else "NO",
                ]
            )
    finished = set(complete)
    wrong += [
        f"{budget.row}: has a budget, but bench_{budget.bench}.py returned no such row"
        for budget in budgets.values()
        if budget.bench in finished and budget.row not in seen
    ]
    return table(lines), wrong


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        measure(arguments[1])
        return 0
    known = names()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(
            f"bench: there is no {', '.join(unknown)}; there are {', '.join(known) or 'none'}",
            file=sys.stderr,
        )
        return 2
    chosen = arguments or known
    budgets = read_budgets(BUDGETS.read_text())
    measured: dict[str, list[Row]] = {}
    wrong: list[str] = []
    for name in chosen:
        print(f"bench_{name} ...", file=sys.stderr, flush=True)
        try:
            measured[name] = rows_of(name)
        except subprocess.CalledProcessError as error:
            wrong.append(f"bench_{name}.py: failed with exit {error.returncode}")
    text, over = judge(measured, budgets, measured)
    wrong += over
    if not arguments:
        wrong += [
            f"{budget.row}: has a budget, but there is no bench_{budget.bench}.py"
            for budget in budgets.values()
            if budget.bench not in known
        ]
    print(text)
    for sentence in wrong:
        print(f"bench: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
