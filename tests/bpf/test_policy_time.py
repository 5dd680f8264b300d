"""The kernel keeps time: what expires ends by the boot clock with nobody there; defaults; older and expired documents."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import PolicyStale, PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import PolicySet, Probe
from aegis.model.policy_document import parse_document
from aegis.model.stamp import rfc3339
from tests.support import packets as p
from tests.support.flows import DROPPED, PASSED, Table, boottime_ns, open_table
from tests.support.policy_kernel import KernelJudge

pytestmark = pytest.mark.require("root", "bpf")

HERE, THERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def table() -> Iterator[Table]:
    with open_table("core") as found:
        yield found


def document(name: str, version: int = 1, **spec: Any) -> bytes:
    metadata = {"name": name, "version": version}
    whole = {"apiVersion": "aegis/v1", "kind": "HostNetworkPolicy", "metadata": metadata, "spec": spec}
    return json.dumps(whole).encode()


def at(wall_ms: int) -> str:
    return rfc3339(wall_ms * 1_000_000)


def udp(port: int) -> bytes:
    return p.ethernet(p.IPV4, p.ipv4(HERE, THERE, p.UDP, p.udp(40000, port)))


def incoming(port: int) -> bytes:
    """Of a peer: what this host sends may be judged again for its socket's sake."""
    return p.ethernet(p.IPV4, p.ipv4(THERE, HERE, p.UDP, p.udp(40000, port)))


def boot_ms() -> int:
    return boottime_ns() // 1_000_000


@pytest.mark.parametrize(
    ("section", "before", "after"), [("ingressDeny", DROPPED, PASSED), ("ingress", PASSED, DROPPED)]
)
def test_a_flow_that_never_pauses_is_judged_again_when_a_policy_ends(
    table: Table, section: str, before: int, after: int
) -> None:
    """With no new generation, at the millisecond, and by what is left: the rule below, or the default."""
    epoch, ends = 1_790_000_000_000, boot_ms() + 300
    ending: dict[str, Any] = {section: [{}]}
    below: dict[str, Any] = {"ingress": [{}]}
    if before == PASSED:
        below = {"enableDefaultDeny": {"ingress": True}}
    policies = PolicySet()
    for each in (
        document("ends", 1, mode="enforce", priority=1, expiresAt=at(epoch + ends), **ending),
        document("stays", 1, mode="enforce", **below),
    ):
        policies = policies.with_policy(parse_document(each))
    with contextlib.closing(PolicySlots.of(table.core)) as slots:
        slots.switch(compile_policies(policies, boot_epoch_ms=epoch), 1)
    seen: list[tuple[int, int, int]] = []
    while boot_ms() < ends + 200:
        start = boot_ms()
        verdict = table.send("ingress", incoming(53))
        seen.append((start, boot_ms(), verdict))
    assert {verdict for _, stop, verdict in seen if stop < ends} == {before}
    assert {verdict for start, _, verdict in seen if start >= ends} == {after}
    assert sum(stop < ends for _, stop, _ in seen) > 10
    (row,) = table.changed()
    assert row.generation == 1
    assert row.verdict == (abi.VERDICT_DENY if after == DROPPED else abi.VERDICT_ALLOW)


def test_no_clock_is_read_where_nothing_ends(table: Table) -> None:
    """What decides may stay; what is about to end does not, though it is of the same set."""
    epoch, ends = 1_790_000_000_000, boot_ms() + 60_000
    policies = PolicySet()
    ending = {"toPorts": [{"ports": [{"port": 99, "protocol": "UDP"}]}]}
    for each in (
        document("ends", mode="enforce", priority=1, expiresAt=at(epoch + ends), egressDeny=[ending]),
        document(
            "stays", mode="enforce", egressDeny=[{"toPorts": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}]
        ),
    ):
        policies = policies.with_policy(parse_document(each))
    with contextlib.closing(PolicySlots.of(table.core)) as slots:
        slots.switch(compile_policies(policies, boot_epoch_ms=epoch), 1)
    assert [table.send("egress", udp(port)) for port in (53, 99, 7)] == [DROPPED, DROPPED, PASSED]
    timing = abi.enum("aegis_judged")["AEGIS_JUDGED_TIMING_SHIFT"]
    words = {
        key[34:36]: abi.unpack("aegis_flow_value", value).judged >> timing
        for key, value in table.core.map("aegis_flows").items_batch(64)
    }
    assert {int.from_bytes(port, "little"): word for port, word in words.items()} == {53: 0, 99: 1, 7: 0}


class Clocks:
    """Two clocks that go as they are told."""

    def __init__(self) -> None:
        self.wall_ms, self.boot_ms = 1_790_000_000_000, 50_000

    def __call__(self) -> tuple[int, int]:
        return self.wall_ms, self.boot_ms


@pytest.fixture
def kernel() -> Iterator[KernelJudge]:
    with KernelJudge() as judge:
        yield judge


@contextlib.contextmanager
def agent(kernel: KernelJudge, state: Path, clocks: Clocks | None) -> Iterator[Enforcer]:
    with contextlib.closing(Enforcer(state, PolicySlots.of(kernel.object), clocks=clocks)) as enforcer:
        enforcer.start()
        yield enforcer


PROBE = Probe(
    direction=Direction.EGRESS, protocol=17, source=address_bytes(HERE), destination=address_bytes(THERE)
)
DENY: dict[str, Any] = {"mode": "enforce", "egressDeny": [{}]}


def test_what_is_older_or_over_is_stale_and_changes_nothing(kernel: KernelJudge, tmp_path: Path) -> None:
    clocks = Clocks()
    with agent(kernel, tmp_path, clocks) as enforcer:
        enforcer.apply(document("a", 7, **DENY))
        before = kernel.slots.position()
        for stale, path in (
            (document("a", 6, **DENY), "metadata.version"),
            (document("b", expiresAt=at(clocks.wall_ms), **DENY), "spec.expiresAt"),
            (document("b", expiresAt="1999-01-01T00:00:00Z", **DENY), "spec.expiresAt"),
        ):
            for verb in (enforcer.check, enforcer.apply):
                with pytest.raises(PolicyStale) as caught:
                    verb(stale)
                assert caught.value.path == path
        assert kernel.slots.position() == before
        assert [each.version for each in enforcer.list()] == [7]
        enforcer.apply(document("a", 7, **DENY))
        enforcer.apply(document("b", 1, expiresAt=at(clocks.wall_ms + 1), **DENY))
    with (
        agent(kernel, tmp_path, None) as enforcer,
        pytest.raises(PolicyUnenforceable, match="knows the time"),
    ):
        enforcer.apply(document("c", expiresAt="2999-01-01T00:00:00Z", **DENY))


def test_a_clock_that_is_set_back_revives_nothing(kernel: KernelJudge, tmp_path: Path) -> None:
    """In this boot, over a restart, and after another boot."""
    clocks = Clocks()
    with agent(kernel, tmp_path, clocks) as enforcer:
        enforcer.apply(document("a", expiresAt=at(clocks.wall_ms + 60_000), **DENY))
        assert enforcer.explain(PROBE).verdict is Verdict.DENY
        clocks.wall_ms += 60_000
        clocks.boot_ms += 60_000
        assert enforcer.explain(PROBE).verdict is Verdict.ALLOW
        enforcer.apply(document("other", mode="observe", egress=[{}]))
        clocks.wall_ms -= 3_600_000
        assert enforcer.explain(PROBE).verdict is Verdict.ALLOW
        enforcer.apply(document("third", mode="observe", egress=[{}]))
        assert enforcer.explain(PROBE).verdict is Verdict.ALLOW
    generation = kernel.slots.position().generation
    with agent(kernel, tmp_path, clocks) as enforcer:
        assert kernel.slots.position().generation == generation, "taken over without a switch"
        assert enforcer.explain(PROBE).verdict is Verdict.ALLOW
    with KernelJudge() as booted:
        clocks.boot_ms = 1_000
        with agent(booted, tmp_path, clocks) as enforcer:
            assert booted.slots.position().generation > generation
            assert enforcer.explain(PROBE).verdict is Verdict.ALLOW


def test_a_default_denies_what_is_left_and_is_named(table: Table) -> None:
    table.apply(
        {
            "mode": "enforce",
            "enableDefaultDeny": {"egress": True},
            "egress": [{"toPorts": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}],
        }
    )
    assert [table.send("egress", udp(port)) for port in (53, 54)] == [PASSED, DROPPED]
    assert table.send("ingress", incoming(8)) == PASSED
    rules = {row.remote_port: row.rule for row in table.changed()}
    assert (rules[53], rules[54]) == (1, 2)


def test_rank_below_the_ends_of_time() -> None:
    """Clocks that were never set: what expires is taken as over at once, never as for ever."""
    policy = parse_document(document("a", expiresAt="2026-01-01T00:00:00Z", **DENY))
    late = compile_policies(PolicySet(policies=(policy,)), boot_epoch_ms=int(time.time() * 1000) + 10**12)
    header = abi.unpack("aegis_image_header", late.data)
    first = header.deadlines
    assert int.from_bytes(late.data[first : first + 8], "little") == 0
