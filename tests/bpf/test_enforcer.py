"""The enforcer on real tables: apply, refuse, restart, survive a death at any step, name what is in force."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from aegis.errors import (
    FeatureUnsupported,
    MapAccessFailed,
    PolicyExists,
    PolicyInvalid,
    PolicyNotFound,
    PolicyUnenforceable,
    StorageError,
)
from aegis.kernel import abi, policy_slots
from aegis.kernel.enforcer import Enforcer
from aegis.kernel.library import open_library
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.policy_store import PolicyStore
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Mode, Packet, PolicySet, Probe
from aegis.model.policy_document import parse_document
from tests.support.policy_kernel import KernelJudge

pytestmark = pytest.mark.require("bpf", "root")


@pytest.fixture
def kernel() -> Iterator[KernelJudge]:
    """Fresh tables, as after a boot."""
    with KernelJudge() as judge:
        yield judge


@pytest.fixture
def agent(kernel: KernelJudge, tmp_path: Path) -> Iterator[Callable[[], Enforcer]]:
    """Starts an agent's enforcer on the kernel's tables and one state directory, after ending the one before."""
    with contextlib.ExitStack() as stack:

        def start() -> Enforcer:
            stack.close()
            enforcer = stack.enter_context(
                contextlib.closing(Enforcer(tmp_path, PolicySlots.of(kernel.object)))
            )
            enforcer.start()
            return enforcer

        yield start


def document(name: str, port: int, *, mode: str = "enforce", deny: bool = True) -> bytes:
    section = "egressDeny" if deny else "egress"
    return (
        f"{{apiVersion: aegis/v1, kind: HostNetworkPolicy, metadata: {{name: {name}}}, spec: {{mode: {mode}, "
        f"{section}: [{{toPorts: [{{ports: [{{port: {port}, protocol: TCP}}]}}]}}]}}}}"
    ).encode()


def verdicts(kernel: KernelJudge, *ports: int) -> list[Verdict]:
    asked = [
        Packet(direction=Direction.EGRESS, peer=address_bytes("192.0.2.1"), protocol=6, port=port)
        for port in ports
    ]
    return [each.verdict for each in kernel.ask(asked)]


ALLOW, AUDIT, DENY = Verdict.ALLOW, Verdict.AUDIT, Verdict.DENY


def test_a_life_of_policies(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    assert enforcer.state().state == "none"
    assert verdicts(kernel, 23) == [ALLOW]

    observed = enforcer.apply(document("telnet", 23, mode="observe"))
    assert (observed.generation, observed.mode) == (1, Mode.OBSERVE)
    assert (enforcer.state().state, enforcer.state().generation) == ("observing", 1)
    assert verdicts(kernel, 23, 24) == [AUDIT, ALLOW]

    enforced = enforcer.apply(document("telnet", 23))
    assert enforced.generation == 2
    assert (enforcer.state().state, enforcer.state().mode) == ("enforcing", Mode.ENFORCE)
    enforcer.apply(document("rlogin", 513, mode="observe"))
    assert verdicts(kernel, 23, 513, 80) == [DENY, AUDIT, ALLOW]
    assert [(each.name, each.mode) for each in enforcer.list()] == [
        ("rlogin", Mode.OBSERVE),
        ("telnet", Mode.ENFORCE),
    ]

    gone = enforcer.remove("telnet")
    assert (gone.name, gone.generation) == ("telnet", 4)
    assert enforcer.state().state == "observing"
    assert verdicts(kernel, 23, 513) == [ALLOW, AUDIT]
    enforcer.remove("rlogin")
    assert (enforcer.state().state, enforcer.state().generation) == ("none", 5)
    assert verdicts(kernel, 23, 513) == [ALLOW, ALLOW]
    with pytest.raises(PolicyNotFound):
        enforcer.remove("rlogin")


def test_a_refused_document_changes_nothing(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    before = kernel.slots.position()
    nested = ", ".join(f"{{toCIDRSet: [{{cidr: 10.0.0.0/{8 + depth}}}]}}" for depth in range(17))
    refused = (
        (document("telnet", 65536), PolicyInvalid),
        (document("telnet", 80).replace(b"spec: {", b"spec: {subject: {user: [0]}, "), PolicyUnenforceable),
        (
            document("deep", 80).replace(b"egressDeny: [", f"egressDeny: [{nested}, ".encode()),
            PolicyUnenforceable,
        ),
    )
    for data, error in refused:
        for refuse in (enforcer.check, enforcer.apply):
            with pytest.raises(error):
                refuse(data)
    assert kernel.slots.position() == before
    assert [each.name for each in enforcer.list()] == ["telnet"]
    assert verdicts(kernel, 23, 80) == [DENY, ALLOW]


def test_check_applies_nothing(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    report = enforcer.check(document("telnet", 23))
    assert (report.name, report.mode, report.rules) == ("telnet", Mode.ENFORCE, 1)
    assert kernel.slots.position().generation == 0
    assert enforcer.list() == ()


def test_a_restart_takes_over_without_a_switch(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    first = agent()
    first.apply(document("telnet", 23))
    first.apply(document("web", 80, mode="observe"))
    before = kernel.slots.position()
    second = agent()
    assert kernel.slots.position() == before
    assert (second.state().state, second.state().generation) == ("enforcing", 2)
    named = second.rule(2, 1)
    assert named is not None
    assert {each.name for each in second.list()} == {"telnet", "web"}
    assert second.rule(1, 1) is None
    assert second.apply(document("ssh", 22)).generation == 3
    assert verdicts(kernel, 23, 22, 80) == [DENY, DENY, AUDIT]


def test_after_a_boot_the_committed_policy_is_loaded(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    with KernelJudge() as booted:
        assert verdicts(booted, 23) == [ALLOW]
        with contextlib.closing(Enforcer(tmp_path, PolicySlots.of(booted.object))) as enforcer:
            assert enforcer.start().state == "enforcing"
            assert enforcer.state().generation > 1
            assert verdicts(booted, 23) == [DENY]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema":"aegis.policy_set","version":1}'])
def test_a_damaged_file_leaves_the_kernel_enforcing(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path, damage: bytes
) -> None:
    agent().apply(document("telnet", 23))
    (tmp_path / "policy" / "committed.json").write_bytes(damage)
    enforcer = agent()
    state = enforcer.state()
    assert (state.state, state.generation) == ("stale", 1)
    assert "committed.json" in (state.reason or "")
    assert verdicts(kernel, 23) == [DENY]
    for ask in (enforcer.list, lambda: enforcer.explain(_probe(23))):
        with pytest.raises(StorageError, match="generation 1"):
            ask()
    assert enforcer.apply(document("web", 80)).generation == 2
    assert enforcer.state().state == "enforcing"
    assert verdicts(kernel, 23, 80) == [ALLOW, DENY]


def test_one_changed_byte_is_noticed(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    path = tmp_path / "policy" / "committed.json"
    path.write_bytes(path.read_bytes().replace(b"port: 23", b"port: 24"))
    assert agent().state().state == "stale"


def test_a_damaged_file_after_a_boot_is_said(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    (tmp_path / "policy" / "committed.json").write_bytes(b"")
    with (
        KernelJudge() as booted,
        contextlib.closing(Enforcer(tmp_path, PolicySlots.of(booted.object))) as enforcer,
    ):
        state = enforcer.start()
        assert state.state == "unavailable"
        assert state.reason


def _dies(*_: object, **__: object) -> None:
    raise SystemExit


@pytest.mark.parametrize(
    ("owner", "step", "switched"),
    [
        (PolicyStore, "prepare", False),
        (PolicySlots, "_write", False),
        (PolicySlots, "_free", True),
        (PolicyStore, "commit", True),
    ],
)
def test_death_at_a_step_leaves_one_whole_policy(
    kernel: KernelJudge,
    agent: Callable[[], Enforcer],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    switched: bool,
) -> None:
    """As by kill -9 just before the step: no clean-up runs. The next agent names what the kernel enforces."""
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    with monkeypatch.context() as patch:
        patch.setattr(PolicyStore, "discard", lambda self: None)
        patch.setattr(owner, step, _dies)
        with pytest.raises(SystemExit):
            enforcer.apply(document("telnet", 24))
    assert verdicts(kernel, 23, 24) == ([ALLOW, DENY] if switched else [DENY, ALLOW])
    after = agent()
    assert (after.state().state, after.state().generation) == ("enforcing", 2 if switched else 1)
    assert after.explain(_probe(24 if switched else 23)).verdict is DENY
    assert verdicts(kernel, 23, 24) == ([ALLOW, DENY] if switched else [DENY, ALLOW])
    assert after.apply(document("telnet", 25)).generation > after.state().generation - 1
    assert verdicts(kernel, 23, 24, 25) == [ALLOW, ALLOW, DENY]


def test_a_full_disk_leaves_the_policy_that_was(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    (tmp_path / "policy" / "next.new").symlink_to("/dev/full")  # a write there fails as on a full disk
    with pytest.raises(StorageError, match="No space left"):
        enforcer.apply(document("telnet", 24))
    assert verdicts(kernel, 23, 24) == [DENY, ALLOW]
    assert enforcer.state().generation == 1


def _refuses(*_: object, **__: object) -> None:
    raise StorageError("committed.json: No space left on device")


def test_a_set_that_cannot_be_committed_is_in_force_and_not_durable(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    with monkeypatch.context() as patch:
        patch.setattr(PolicyStore, "commit", _refuses)
        assert enforcer.apply(document("telnet", 24)).generation == 2
        assert verdicts(kernel, 23, 24) == [ALLOW, DENY]
        _expect_not_durable(enforcer)
        enforcer = agent()
        _expect_not_durable(enforcer)
        with pytest.raises(StorageError, match="No space left"):
            enforcer.apply(document("telnet", 25))  # would take the place of the only record of generation 2
        assert verdicts(kernel, 23, 24, 25) == [ALLOW, DENY, ALLOW]
    state = enforcer.state()
    assert (state.state, state.reason, state.durable) == ("enforcing", None, True)
    with (
        KernelJudge() as booted,
        contextlib.closing(Enforcer(tmp_path, PolicySlots.of(booted.object))) as later,
    ):
        later.start()
        assert verdicts(booted, 23, 24) == [ALLOW, DENY]


def _expect_not_durable(enforcer: Enforcer) -> None:
    state = enforcer.state()
    assert (state.state, state.generation, state.durable) == ("enforcing", 2, False)
    assert "No space left" in (state.reason or "")
    assert enforcer.explain(_probe(24)).verdict is DENY


def test_a_record_that_is_lost_meanwhile_is_written_again(
    agent: Callable[[], Enforcer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = agent()
    with monkeypatch.context() as patch:
        patch.setattr(PolicyStore, "commit", _refuses)
        enforcer.apply(document("telnet", 23))
    (tmp_path / "policy" / "next.json").unlink()
    assert enforcer.state().durable
    assert agent().state().state == "enforcing"


def test_a_failed_switch_keeps_the_record_of_what_was_not_committed(
    kernel: KernelJudge, agent: Callable[[], Enforcer], monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    with monkeypatch.context() as patch:
        patch.setattr(PolicyStore, "commit", _refuses)
        enforcer.apply(document("telnet", 24))
    with monkeypatch.context() as patch:
        patch.setattr(PolicySlots, "_write", _dies)
        with pytest.raises(SystemExit):
            enforcer.apply(document("telnet", 25))
    after = agent()
    assert (after.state().state, after.state().generation) == ("enforcing", 2)
    assert after.explain(_probe(24)).verdict is DENY
    assert verdicts(kernel, 23, 24, 25) == [ALLOW, DENY, ALLOW]


def test_an_interrupt_behind_the_store_leaves_the_record(
    agent: Callable[[], Enforcer], monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    with monkeypatch.context() as patch:
        patch.setattr(PolicySlots, "_free", _dies)
        with pytest.raises(SystemExit):
            enforcer.apply(document("telnet", 24))
    after = agent()
    assert (after.state().state, after.state().generation) == ("enforcing", 2)
    assert after.explain(_probe(24)).verdict is DENY


@pytest.mark.parametrize("instead", [None, 80])
def test_a_state_word_without_its_image_is_not_taken_over(
    kernel: KernelJudge, agent: Callable[[], Enforcer], instead: int | None
) -> None:
    """As when only the pin of the images was removed; or another one's image is in the slot."""
    agent().apply(document("telnet", 23))
    before = kernel.slots.position()
    images, slot = kernel.object.map("aegis_images"), before.slot.to_bytes(4, "little")
    if instead is None:
        images.delete(slot)
        assert verdicts(kernel, 23, 24) == [DENY, DENY]
    else:
        other = compile_policies(PolicySet().with_policy(parse_document(document("telnet", instead))))
        with contextlib.closing(kernel.slots._table()) as inner:
            kernel.slots._write(inner, other, 0)
            images.update(slot, inner.fd.to_bytes(4, "little"))
        assert verdicts(kernel, 23, instead) == [ALLOW, DENY]
    enforcer = agent()
    assert (enforcer.state().state, enforcer.state().generation) == ("enforcing", 2)
    assert verdicts(kernel, 23, 24, 80) == [DENY, ALLOW, ALLOW]


def test_an_image_that_may_not_be_read_is_taken_over(
    kernel: KernelJudge, agent: Callable[[], Enforcer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_SYS_ADMIN; that the slot is empty is seen all the same."""
    agent().apply(document("telnet", 23))
    ffi, _ = open_library()
    image = compile_policies(PolicySet())
    with monkeypatch.context() as patch:
        refusing = SimpleNamespace(bpf_map_get_fd_by_id=lambda _: -errno.EPERM)
        patch.setattr(policy_slots, "open_library", lambda: (ffi, refusing))
        assert kernel.slots.holds(image)
        kernel.object.map("aegis_images").delete(kernel.slots.position().slot.to_bytes(4, "little"))
        assert not kernel.slots.holds(image)


def test_an_image_that_reads_back_otherwise_is_not_switched_to(
    kernel: KernelJudge, agent: Callable[[], Enforcer], monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = agent()
    enforcer.apply(document("telnet", 23))
    real = policy_slots.PolicySlots.switch

    def corrupted(slots: PolicySlots, image: CompiledImage, generation: int, **_: object) -> object:
        data = bytearray(image.data)
        data[-1] ^= 1
        return real(
            slots, CompiledImage(data=bytes(data), digest=image.digest, rules=image.rules), generation
        )

    with monkeypatch.context() as patch:
        patch.setattr(policy_slots.PolicySlots, "switch", corrupted)
        with pytest.raises(MapAccessFailed, match="digest differs"):
            enforcer.apply(document("telnet", 24))
    assert verdicts(kernel, 23, 24) == [DENY, ALLOW]
    assert enforcer.apply(document("telnet", 24)).generation == 2


def test_without_tables_nothing_is_silently_off(tmp_path: Path) -> None:
    enforcer = Enforcer(tmp_path, None, reason="missing_capability: no CAP_BPF")
    assert enforcer.start().state == "unavailable"
    assert enforcer.state().reason == "missing_capability: no CAP_BPF"
    assert enforcer.check(document("telnet", 23)).rules == 1
    with pytest.raises(FeatureUnsupported, match="no CAP_BPF"):
        enforcer.apply(document("telnet", 23))
    assert not (tmp_path / "policy").exists()
    assert enforcer.list() == ()


def test_without_tables_the_policies_that_are_kept_can_be_named(
    kernel: KernelJudge, agent: Callable[[], Enforcer], tmp_path: Path
) -> None:
    agent().apply(document("telnet", 23))
    without = Enforcer(tmp_path, None, reason="no BPF")
    assert without.start().state == "unavailable"
    assert [one.name for one in without.list()] == ["telnet"]
    assert "nothing is enforced: no BPF" in without.explain(_probe(23)).path
    with pytest.raises(FeatureUnsupported, match="no BPF"):
        without.remove("telnet")
    assert [one.name for one in agent().list()] == ["telnet"]


def test_without_a_hook_the_state_says_so(kernel: KernelJudge, tmp_path: Path) -> None:
    hooked = False
    with contextlib.closing(
        Enforcer(tmp_path, PolicySlots.of(kernel.object), hooked=lambda: hooked)
    ) as enforcer:
        enforcer.start()
        assert enforcer.state().state == "none"
        enforcer.apply(document("telnet", 23))
        assert enforcer.state().state == "unavailable"
        assert (
            "nothing is enforced: no interface carries the packet programs"
            in enforcer.explain(_probe(23)).path
        )
        hooked = True
        assert not any("nothing is enforced" in step for step in enforcer.explain(_probe(23)).path)
        assert enforcer.state().state == "enforcing"


def _probe(port: int) -> Probe:
    return Probe(
        direction=Direction.EGRESS,
        protocol=6,
        source=address_bytes("192.0.2.9"),
        source_port=40_009,
        destination=address_bytes("192.0.2.1"),
        destination_port=port,
    )


def test_rule_numbers_are_named_by_their_generation(agent: Callable[[], Enforcer]) -> None:
    enforcer = agent()
    enforcer.apply(document("b", 23))
    enforcer.apply(document("a", 24))
    for generation, rule, policy in ((1, 1, "b"), (2, 1, "a"), (2, 2, "b")):
        named = enforcer.rule(generation, rule)
        assert named is not None
        assert (named.policy, named.rule, named.deny) == (policy, "egressDeny[0]", True)
    for generation, rule in ((1, 0), (1, 2), (2, 3), (3, 1), (2, -1)):
        assert enforcer.rule(generation, rule) is None


def test_old_images_are_given_back(kernel: KernelJudge, agent: Callable[[], Enforcer]) -> None:
    """After any number of changes one is left beside that of the state word: the table for the next one."""
    enforcer = agent()
    images = kernel.object.map("aegis_images")
    for number in range(7):
        enforcer.apply(document("telnet", 100 + number))
        slots = [
            slot for slot in range(abi.POLICY_SLOTS) if images.lookup(slot.to_bytes(4, "little")) is not None
        ]
        assert kernel.slots.position().slot in slots
        assert len(slots) == min(2, number + 1)


def test_who_ordered_a_policy_is_who_may_replace_it(
    kernel: KernelJudge, agent: Callable[[], Enforcer]
) -> None:
    enforcer = agent()
    assert enforcer.apply(document("mine", 23)).origin == "local"
    assert enforcer.apply(document("theirs", 24), origin="gateway").origin == "gateway"
    for name, origin in (("mine", "gateway"), ("theirs", "local")):
        with pytest.raises(PolicyExists, match=f"the policy {name} in force is of origin") as refused:
            enforcer.apply(document(name, 25), origin=origin)
        assert refused.value.code == f"policy_exists_{'local' if name == 'mine' else 'gateway'}"
    with pytest.raises(PolicyNotFound, match="of origin gateway"):
        enforcer.remove("mine", origin="gateway")
    with pytest.raises(PolicyExists):
        enforcer.check(document("theirs", 25))
    assert verdicts(kernel, 23, 24, 25) == [DENY, DENY, ALLOW]
    enforcer = agent()  # a restart knows it still
    assert {each.name: each.origin for each in enforcer.list()} == {"mine": "local", "theirs": "gateway"}
    enforcer.remove("theirs", origin="gateway")
    enforcer.remove("mine")
    assert verdicts(kernel, 23, 24) == [ALLOW, ALLOW]
