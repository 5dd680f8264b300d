"""What policies may use in this kernel beside addresses and services: its tables opened for the enforcer, or why not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aegis.agent.name_room import NameRoom
from aegis.errors import AegisError, FeatureUnsupported
from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import SUBJECT_PROGRAMS
from aegis.kernel.policy_sides import Side, Sides, SubjectSide
from aegis.kernel.subject_tables import SubjectTables
from aegis.model.policy_selectors import Feature
from aegis.runtime.module import Health

DENIED: Final = "deny"  # of policy.subject_default


class KernelSides:
    """Owns the tables of the features. Made without I/O."""

    def __init__(self, health: Health, names: NameRoom | None = None) -> None:
        """Borrows `names`."""
        self._health = health
        self._names = names
        self._subjects: SubjectTables | None = None

    def open(self, datapath: Datapath, cgroup_root: Path | None, *, subject_default: str) -> Sides:
        """Every side that can be had. A policy that needs another is refused, and a condition says why it is not there."""
        sides: dict[Feature, Side] = {}
        try:
            self._subjects = _subject_tables(datapath, cgroup_root)
        except (AegisError, OSError) as error:
            self._health.raise_("subjects_unavailable", str(error))
        else:
            sides[Feature.SUBJECTS] = SubjectSide(self._subjects, unknown_denied=subject_default == DENIED)
            if self._subjects.not_kept:
                self._health.raise_(
                    "subjects_unavailable",
                    f"{self._subjects.not_kept} control groups found no room in the kernel's table: each is judged as the "
                    "nearest above it that did",
                )
        if self._names is not None:
            try:
                sides[Feature.NAMES] = self._names.open(datapath)
            except (AegisError, OSError) as error:
                self._health.raise_("names_unavailable", str(error))
        return Sides(sides)

    def close(self) -> None:
        """Leave; the kernel goes on with what it has."""
        if self._subjects is not None:
            self._subjects.close()
            self._subjects = None


def _subject_tables(datapath: Datapath, cgroup_root: Path | None) -> SubjectTables:
    """The tables, knowing every control group there is. Raises KernelError or OSError."""
    missing = [each for each in datapath.missing if each.part in SUBJECT_PROGRAMS]
    if missing:
        raise FeatureUnsupported("classify", "subjects", detail=f"{missing[0].part}: {missing[0].error}")
    if cgroup_root is None:
        raise FeatureUnsupported("classify", "subjects", detail="there is no control group to watch")
    tables = SubjectTables.of(datapath.object)
    try:
        tables.start(cgroup_root)
    except BaseException:
        tables.close()
        raise
    return tables
