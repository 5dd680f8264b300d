"""The table that waits for the next image: it is written only when no packet can read it, and only if it is still there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from aegis._native import _system
from aegis.errors import KernelError
from aegis.kernel import abi, policy_slots
from aegis.kernel.library import open_library
from aegis.kernel.maps import Map
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_slots import PolicySlots
from aegis.model.net import Direction
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document
from tests.support.policy_kernel import KernelJudge

pytestmark = pytest.mark.require("root", "bpf")

ADDRESS = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])


@pytest.fixture
def kernel() -> Iterator[KernelJudge]:
    judge = KernelJudge()
    yield judge
    judge._stack.close()


def denying(*ports: int) -> CompiledImage:
    rules = [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]} for port in ports]
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"mode": "enforce", "egressDeny": rules},
    }
    return compile_policies(PolicySet().with_policy(parse_document(json.dumps(document).encode())))


def denied(kernel: KernelJudge, *ports: int) -> list[bool]:
    packets = [Packet(direction=Direction.EGRESS, peer=ADDRESS, protocol=6, port=each) for each in ports]
    return [each.enforced_denies for each in kernel.ask(packets)]


def tables(kernel: KernelJudge) -> dict[int, int]:
    """By slot the id of the table that is in it."""
    images = kernel.object.map("aegis_images")
    found = {slot: images.lookup(slot.to_bytes(4, "little")) for slot in range(abi.POLICY_SLOTS)}
    return {slot: int.from_bytes(each, "little") for slot, each in found.items() if each is not None}


def contents(number: int) -> bytes:
    _, lib = open_library()
    with (
        contextlib.closing(Map(lib.bpf_map_get_fd_by_id(number))) as inner,
        contextlib.closing(inner.mmap(writable=False)) as memory,
    ):
        return memory[:]


def test_two_tables_take_turns_and_hold_nothing_of_what_was(kernel: KernelJudge) -> None:
    kernel.switch(denying(1))
    kernel.switch(denying(*range(100, 400)))
    both = tables(kernel)
    assert len(both) == 2
    for number in range(2, 8):
        image = denying(number) if number % 2 else denying(*range(number, 300 + number))
        kernel.switch(image)
        assert tables(kernel) == both
        found = contents(both[kernel.slots.position().slot])
        assert found[: len(image.data)] == image.data
        assert not any(found[len(image.data) :])
        assert denied(kernel, number, number - 1) == [True, False]


def test_a_table_that_packets_may_still_read_is_not_written(
    kernel: KernelJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the grace period cannot be waited for."""

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == "aegis_membarrier" else getattr(_system.lib, name)

    class Without:
        ffi, lib = _system.ffi, Refusing()

    kernel.switch(denying(1))
    before = contents(tables(kernel)[kernel.slots.position().slot])
    left = tables(kernel)[kernel.slots.position().slot]
    with monkeypatch.context() as patch:
        patch.setattr(policy_slots, "_system", Without)
        kernel.switch(denying(2))
        assert contents(left) == before
        kernel.switch(denying(3))
    assert left not in tables(kernel).values()
    assert denied(kernel, 1, 2, 3) == [False, False, True]


def test_a_table_that_somebody_else_put_there_is_replaced(kernel: KernelJudge) -> None:
    kernel.switch(denying(1))
    kernel.switch(denying(2))
    spare = next(slot for slot in tables(kernel) if slot != kernel.slots.position().slot)
    with contextlib.closing(kernel.slots._table()) as foreign:
        kernel.object.map("aegis_images").update(
            spare.to_bytes(4, "little"), foreign.fd.to_bytes(4, "little")
        )
        kernel.switch(denying(3))
        assert foreign.id not in tables(kernel).values()
    assert denied(kernel, 1, 2, 3) == [False, False, True]


def test_a_waiting_table_that_reads_back_otherwise_is_not_switched_to(
    kernel: KernelJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.switch(denying(1))
    kernel.switch(denying(2))
    position = kernel.slots.position()
    with monkeypatch.context() as patch:
        patch.setattr(policy_slots, "_digest", lambda *_: "another")
        with pytest.raises(KernelError, match="digest differs"):
            kernel.switch(denying(3))
    assert kernel.slots.position() == position
    assert denied(kernel, 1, 2, 3) == [False, True, False]
    kernel.switch(denying(4))
    assert denied(kernel, 2, 4) == [False, True]
    assert len(tables(kernel)) == 2


def test_what_a_trial_goes_back_to_is_not_written(kernel: KernelJudge) -> None:
    kernel.switch(denying(1))
    kernel.switch(denying(2))
    before = kernel.slots.position()
    held = contents(tables(kernel)[before.slot])
    kernel.slots.switch(denying(3), 3, deadline_ns=1 << 62)
    assert contents(tables(kernel)[before.slot]) == held
    assert kernel.slots.revert() == before
    assert denied(kernel, 1, 2, 3) == [False, True, False]
    kernel.slots.switch(denying(4), 4, deadline_ns=1 << 62)
    assert kernel.slots.confirm(denying(4), lambda: False) is not None
    assert len(tables(kernel)) == 2
    kernel.slots.switch(denying(5), 5)
    assert denied(kernel, 2, 4, 5) == [False, False, True]


def test_another_writer_takes_a_slot_that_was_left_over(kernel: KernelJudge) -> None:
    """As the next agent: it knows nothing of the table that waits, and leaves none beside its own."""
    kernel.switch(denying(1))
    kernel.switch(denying(2))
    with contextlib.closing(PolicySlots.of(kernel.object)) as after:
        after.switch(denying(3), 3)
        assert len(tables(kernel)) == 1  # the one it found was not made here: given back
        after.switch(denying(4), 4)
        assert len(tables(kernel)) == 2
    assert denied(kernel, 2, 3, 4) == [False, False, True]
