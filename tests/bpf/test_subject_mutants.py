"""The tests of subjects notice planted bugs: each of these fails with one of them in the programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bpf import test_subject_sockets, test_subject_tables, test_subjects
from tests.support import testers
from tests.support.subject_mutants import Mutant, plant
from tests.support.subjects import Restarts, programs  # noqa: F401
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

SUBJECT, CONNECT = "src/subject.bpf.c", "src/connect.bpf.c"
AUTOMATON, MASK = "include/kern/automaton.bpf.h", "include/kern/subject.bpf.h"


def unit(world: World, restarts: Restarts) -> None:
    test_subjects.test_a_denied_unit_restarted(world, restarts, "again")


def handed_over(maker: int, user: int) -> Callable[[World, Restarts], None]:
    def check(world: World, restarts: Restarts) -> None:
        units = (
            world.make_cgroup(test_subject_sockets.DENIED),
            world.make_cgroup(test_subject_sockets.ALLOWED),
        )
        with test_subjects.judged(world) as host:
            host.apply(test_subjects.deny(unit="denied.service"))
            test_subject_sockets.test_a_descriptor_handed_over(
                world, host, units, (world.a.v4, world.b.v4), 1, maker, user, passes=False
            )

    return check


def datagrams(world: World, restarts: Restarts) -> None:
    units = (world.make_cgroup(test_subject_sockets.DENIED), world.make_cgroup(test_subject_sockets.ALLOWED))
    with test_subjects.judged(world) as host:
        host.apply(test_subjects.deny(unit="denied.service"))
        test_subject_sockets.test_datagrams_without_connect(world, host, units, (world.a.v4, world.b.v4))


def received(world: World, restarts: Restarts) -> None:
    units = (world.make_cgroup(test_subject_sockets.DENIED), world.make_cgroup(test_subject_sockets.ALLOWED))
    test_subject_sockets.test_what_comes_in_is_judged_by_who_receives(
        world, units, (world.a.v4, world.b.v4), 0, "ETIMEDOUT"
    )


def cut(world: World, restarts: Restarts) -> None:
    units = (world.make_cgroup(test_subject_sockets.DENIED), world.make_cgroup(test_subject_sockets.ALLOWED))
    test_subject_sockets.test_an_open_connection_is_cut_by_its_packets(
        world, units, (world.a.v4, world.b.v4), 0, "ETIMEDOUT"
    )


def full(world: World, restarts: Restarts) -> None:
    test_subject_tables.test_a_full_table_judges_by_the_nearest_known_above(world, restarts)


def running(world: World, restarts: Restarts) -> None:
    test_subject_tables.test_an_executable_that_runs_when_the_policy_comes(
        world, (restarts.restarter, restarts.first)
    )


MUTANTS: dict[str, tuple[Mutant, Callable[[World, Restarts], Any]]] = {
    "a new control group is not classified": (
        Mutant(SUBJECT, "aegis_cgroup_side(&entry->sides[0], parent, &control->slots[0], 0, user);", ""),
        unit,
    ),
    "what exists is not classified for a new policy": (
        Mutant(SUBJECT, "    fill->missing++;\n", "    return 0;\n"),
        test_subject_tables.test_what_exists_already,
    ),
    "a new one inherits without its own name": (
        Mutant(
            SUBJECT,
            "state = aegis_automaton_step(user, parent->sides[number].state);",
            "state = parent->sides[number].state;",
        ),
        unit,
    ),
    "the maker of a socket is not asked": (
        Mutant(CONNECT, "if (label->maker_mask[at] != mask) {", "if (0) {"),
        handed_over(0, 1),
    ),
    "the task that connects is not asked": (
        Mutant(
            CONNECT,
            "verdict = aegis_connect_verdict(hi, lo, service, state, mask);",
            "verdict = 0;",
        ),
        handed_over(1, 0),
    ),
    "sendmsg is not judged": (
        Mutant(
            CONNECT,
            "int cgroup_sendmsg4_subject(struct bpf_sock_addr *context)\n{\n    return aegis_connect_v4(context);",
            "int cgroup_sendmsg4_subject(struct bpf_sock_addr *context)\n{\n    return 1;",
        ),
        datagrams,
    ),
    "packets are everybody's": (
        Mutant(SUBJECT, "return aegis_subject_received(skb, &packet->key, state);", "return 1;"),
        received,
    ),
    "a label keeps the masks of the policy before": (
        Mutant(
            MASK,
            "at = generation & 1;\n\n    if (likely(generation && label->generation[at] == generation))",
            "at = 0;\n\n    if (label->maker_mask[0])",
        ),
        cut,
    ),
    "one that is not known has nobody above it": (
        Mutant(MASK, "    ancestor->found = id;\n", ""),
        full,
    ),
    "suffixes are not compared": (
        Mutant(AUTOMATON, "differs |= (component->tail[7] & affix->suffix_mask[7]) ^ affix->suffix[7];", ""),
        test_subjects.test_an_allowed_unit_under_default_deny,
    ),
    "an executable is named by its file's own name alone": (
        Mutant(SUBJECT, "return !(walk->state % AEGIS_AUTOMATON_STATES);", "return 1;"),
        test_subjects.test_a_denied_executable_started,
    ),
    "processes stay when they are gone": (
        Mutant(SUBJECT, "if (control && control->exes && !task->signal->live.counter)", "if (0)"),
        test_subjects.test_a_denied_executable_started,
    ),
    "whose mount it is is not asked": (
        Mutant(SUBJECT, "if (!walk->arrived || !aegis_mount_of_host((struct vfsmount *)mnt)) {", "if (0) {"),
        test_subjects.test_a_name_that_a_user_gives_a_file_in_a_namespace_of_his_own,
    ),
    "children of an executable are not it": (
        Mutant(SUBJECT, "if (known && known->exec == aegis_exec_of(parent) &&", "if (0 && known &&"),
        test_subjects.test_threads_and_children_of_a_denied_executable,
    ),
    "what runs already is not asked": (
        Mutant(SUBJECT, "if (!task || task->pid != task->tgid || task->flags & AEGIS_PF_KTHREAD)", "if (1)"),
        running,
    ),
    "control groups stay when they are gone": (
        Mutant(SUBJECT, "if (!bpf_map_delete_elem(&aegis_subject_cgroups, &id))", "if (0)"),
        test_subject_tables.test_the_table_forgets_what_is_gone,
    ),
}


@pytest.mark.parametrize("bug", MUTANTS)
def test_noticed(
    world: World,
    programs: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
) -> None:
    mutant, check = MUTANTS[bug]
    plant(mutant, tmp_path, monkeypatch)
    with testers.tcp_server(world.b, world.b.v4) as port, pytest.raises((AssertionError, TimeoutError)):
        check(world, Restarts(world, *programs, port))
