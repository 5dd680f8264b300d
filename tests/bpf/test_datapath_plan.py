"""As much of a plan is loaded as the kernel takes; without the packet programs there is nothing."""

from __future__ import annotations

import pytest

from aegis.errors import FeatureUnsupported, LoadRejected
from aegis.kernel.datapath_plan import SENDERS, Plan, load_most
from aegis.kernel.tc import Direction
from tests.bpf.test_datapath import CONSTANTS, PLAN, clean, counted, install, send
from tests.support.flows import PASSED
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf")


def test_what_cannot_be_loaded_is_missing_and_the_rest_runs(world: World) -> None:
    plan = Plan(object="probe_loader", packet=PLAN.packet, cgroup=PLAN.cgroup, tracing=("probe_of_nothing",))
    with pytest.raises(FeatureUnsupported):
        install(world, plan=plan)
    path = install(world, cgroup_root=world.directory / "absent")
    assert [each.part for each in path.missing] == ["probe_sock_create"]
    send(world, 7)
    assert counted(path) == 7
    clean(world, path)


def test_what_the_verifier_refuses_is_left_out_the_last_first() -> None:
    plan = Plan(
        object="probe_refused",
        packet={},
        cgroup=("refused_null",),
    )
    loaded, missing = load_most(plan, None, {}, {}, None)
    with loaded:
        assert [(each.part, type(each.error)) for each in missing] == [("refused_null", LoadRejected)]
        assert loaded.programs() == ()
    with pytest.raises(LoadRejected):
        load_most(Plan(object="probe_refused", packet={Direction.EGRESS: "refused_null"}), None, {}, {}, None)
    loaded, missing = load_most(PLAN, CONSTANTS, {}, {}, None)
    with loaded:
        assert missing == ()
        assert {one.name for one in loaded.programs()} == {
            "probe_tc_count",
            "probe_tc_pass",
            "probe_sock_create",
        }


def test_packet_programs_that_may_not_look_at_who_sends() -> None:
    """They are loaded without that, nothing else is given up for it, and what is missing is told."""
    plan = Plan(object="probe_sender", packet={Direction.EGRESS: "probe_sender"})
    loaded, missing = load_most(plan, CONSTANTS, {}, {}, None)
    with loaded:
        assert [(each.part, type(each.error)) for each in missing] == [(SENDERS, LoadRejected)]
        assert loaded.program("probe_sender").run(bytes(64)).retval == PASSED
