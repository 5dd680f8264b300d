"""A side that cannot be had is a condition, and policies that need it are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from aegis.agent.kernel_sides import KernelSides
from aegis.errors import LoadRejected
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import Missing
from aegis.runtime.clock import SystemClock
from aegis.runtime.health import Conditions


class Nothing:
    """A datapath that lacks one program."""

    def __init__(self, part: str) -> None:
        self.missing = (Missing(part=part, error=LoadRejected("load", part, 22)),)


def opened(part: str, root: Path | None) -> tuple[Any, list[str]]:
    conditions = Conditions(SystemClock())
    sides = KernelSides(conditions.scoped("agent"))
    found = sides.open(cast("Datapath", Nothing(part)), root, subject_default="allow")
    sides.close()
    return found, [f"{each.code}: {each.text}" for each in conditions.all()]


def test_a_program_of_subjects_that_is_missing(tmp_path: Path) -> None:
    found, told = opened("tp_subject_mkdir", tmp_path)
    assert found.features == frozenset()
    assert len(told) == 1
    assert told[0].startswith("subjects_unavailable")
    assert "tp_subject_mkdir" in told[0]


def test_no_control_groups() -> None:
    found, told = opened("something else", None)
    assert found.features == frozenset()
    assert "no control group" in told[0]
