"""The core object over a world's own control group, with policies about subjects applied as the agent does it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aegis.kernel.datapath import Datapath
from aegis.kernel.datapath_plan import CORE
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.subject_patterns import CompiledSubjects, compile_subjects
from aegis.kernel.subject_tables import SubjectTables
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document
from aegis.model.policy_selectors import Subject
from tests.support.flows import CONSTANTS
from tests.support.world import World


class Judged:
    """The datapath of a world. `tables` are the kernel's tables of subjects."""

    def __init__(self, path: Datapath, tables: SubjectTables, slots: PolicySlots) -> None:
        self.path = path
        self.tables = tables
        self.slots = slots
        self.compiled: CompiledSubjects | None = None

    def apply(self, *specs: dict[str, Any], unknown_denied: bool = False) -> int:
        """Make these specs the policy; the new generation."""
        known = PolicySet()
        for number, whole in enumerate(specs):
            spec = {**whole}
            subject = spec.pop("subject", None)
            document = {
                "apiVersion": "aegis/v1",
                "kind": "HostNetworkPolicy",
                "metadata": {"name": f"p{number}"},
                "spec": spec,
            }
            policy = parse_document(json.dumps(document).encode())
            if subject is not None:
                asked = Subject(**{key: (value,) for key, value in subject.items()})
                policy = msgspec.structs.replace(policy, subject=asked)
            known = known.with_policy(policy)
        before = self.slots.position()
        slot = self.slots._free_slot({before.slot} if before.generation else set())
        generation = before.generation + 1
        self.compiled = compile_subjects(known.subjects())
        filled = self.tables.prepare(slot, generation, self.compiled, unknown_denied=unknown_denied)
        assert filled.unplaced == 0
        assert self.slots.switch(compile_policies(known), generation).slot == slot
        if before.generation:
            self.tables.forget(before.slot)
        return generation

    def counted(self, name: str) -> int:
        return self.tables.counts()[name]


@contextlib.contextmanager
def judged(world: World, *, known_from: Path | None = None, **sizes: int) -> Iterator[Judged]:
    """The core object on a's interface and on the world's control group, without a pin. What is known begins there, or at
    `known_from`."""
    with world.a.entered():
        path = Datapath.install(
            CORE,
            constants=CONSTANTS,
            map_sizes={"aegis_flows": 4096, **sizes},
            interfaces=[world.a.index],
            cgroup_root=world.cgroup,
            pin_dir=None,
        )
    try:
        assert path.missing == ()
        with (
            contextlib.closing(SubjectTables.of(path.object)) as tables,
            contextlib.closing(PolicySlots.of(path.object)) as slots,
        ):
            tables.start(known_from or world.cgroup)
            yield Judged(path, tables, slots)
    finally:
        with world.a.entered():
            path.close()


def deny(*, egress: bool = True, **subject: str) -> dict[str, Any]:
    """A spec that denies a subject every peer but this host."""
    return {"mode": "enforce", "subject": subject, ("egressDeny" if egress else "ingressDeny"): [{}]}


@functools.cache
def _compiled() -> tuple[tempfile.TemporaryDirectory[str], Path, Path]:
    directory = tempfile.TemporaryDirectory(prefix="aegis-subjects-")
    restarter, first = Path(directory.name) / "restarter", Path(directory.name) / "first"
    here = Path(__file__)
    common = ["gcc", "-O2", "-Wall", "-Werror", "-static"]
    subprocess.run([*common, "-o", str(restarter), str(here.with_name("restarter.c"))], check=True)
    bare = ["-nostdlib", "-fno-stack-protector", "-fno-builtin"]
    subprocess.run([*common, *bare, "-o", str(first), str(here.with_name("first.c"))], check=True)
    return directory, restarter, first


@contextlib.contextmanager
def compiled_programs() -> Iterator[tuple[Path, Path]]:
    """The compiled `restarter`, and `first`, whose first instructions connect."""
    directory, restarter, first = _compiled()
    yield restarter, first
    directory.cleanup()
    _compiled.cache_clear()


@pytest.fixture(scope="session")
def programs() -> Iterator[tuple[Path, Path]]:
    with compiled_programs() as found:
        yield found


@dataclasses.dataclass(frozen=True)
class Restarts:
    """Starts programs that connect at once in control groups of the world's host."""

    world: World
    restarter: Path
    first: Path
    port: int
    datagrams: bool = False

    def __call__(
        self, how: str, count: int, directory: Path, name: str = ".", program: Path | None = None
    ) -> dict[str, int]:
        """How often the program ended with which errno: `{"EPERM": 1000}`, or `"passed"`."""
        address = socket.inet_aton(self.world.b.v4).hex()
        arguments = [address, f"{self.port:04x}", "u" if self.datagrams else "t"]
        done = self.world.a.command(
            self.restarter, how, str(count), directory, name, program or self.first, *arguments
        )
        found = json.loads(done.stdout)
        return {errno.errorcode.get(int(status), "passed"): times for status, times in found.items()}
