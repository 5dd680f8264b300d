"""The kernel's search against the reference and the image reader: random policies, planted bugs, atomic swaps."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from aegis.kernel.policy_image import CompiledImage, compile_policies, names_of
from aegis.kernel.policy_walk import ImageReader
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document
from tests.support.policies import EPOCH_MS, compiled, large_set, packets_about, packets_at, random_set
from tests.support.policy_extremes import edge_set, left_set, nested_set, packets_at_edges, packets_nested
from tests.support.policy_kernel import MOST, PACKET, KernelJudge
from tests.support.policy_mutants import MUTANTS, expected, found, planted
from tests.support.policy_walker_mutants import MUTANTS as WALKER_MUTANTS
from tests.support.policy_walker_mutants import planted_object
from tests.support.scale import scaled, seed

SETS, PACKETS = scaled(23, 200), scaled(503, 2000)
SWAPS = scaled(101, 10_000)
TRIES = 6  # a bug about what few random sets have is looked for in more of them

pytestmark = pytest.mark.require("bpf", "root")


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelJudge]:
    with KernelJudge() as judge:
        yield judge


def differences(kernel: KernelJudge, dice: random.Random) -> int:
    """Packets that the kernel judges otherwise than the reference, of a random set."""
    policies = random_set(dice)
    return wrong_about(kernel, policies, packets_about(dice, policies, PACKETS) + packets_at_edges(policies))


def everywhere(kernel: KernelJudge, dice: random.Random) -> Iterator[int]:
    """The differences of every set there is, the slow one last."""
    for edges in (edge_set(), left_set()):
        yield wrong_about(kernel, edges, packets_at_edges(edges))
    yield from (differences(kernel, dice) for _ in range(SETS))
    nested = nested_set(dice)
    yield wrong_about(kernel, nested, packets_nested(nested))


def wrong_about(kernel: KernelJudge, policies: PolicySet, asked: list[Packet]) -> int:
    """How many of the packets are judged otherwise."""
    image = compiled(policies)
    kernel.switch(image)
    got = kernel.ask(asked)
    return sum(
        one != other for one, other in zip(found(image.rules, got), expected(policies, asked), strict=True)
    )


def test_the_kernel_decides_as_the_reference(kernel: KernelJudge) -> None:
    dice = random.Random(seed())
    assert not any(everywhere(kernel, dice))


def test_the_kernel_never_differs_from_the_reader_of_images(kernel: KernelJudge) -> None:
    dice = random.Random(seed())
    for _ in range(SETS):
        policies = random_set(dice)
        asked = packets_about(dice, policies, PACKETS)
        image = compiled(policies)
        reader = ImageReader(image.data)
        kernel.switch(image)
        assert kernel.ask(asked) == [
            reader.judge(packet, names=names_of(image, packet.names), boot_epoch_ms=EPOCH_MS)
            for packet in asked
        ]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_seen_in_the_kernel(kernel: KernelJudge, mutant: str) -> None:
    dice = random.Random(seed())
    with planted(mutant):
        assert any(any(everywhere(kernel, dice)) for _ in range(TRIES))


@pytest.mark.parametrize("mutant", WALKER_MUTANTS)
def test_a_bug_planted_in_the_kernels_search_is_seen(mutant: str) -> None:
    dice = random.Random(seed())
    with KernelJudge(data=planted_object(mutant)) as wrong:
        assert any(any(everywhere(wrong, dice)) for _ in range(TRIES))


def test_the_largest_policy(kernel: KernelJudge) -> None:
    """1,000 rules, and 16 nested prefixes that all carry rules, are decided like small ones."""
    dice = random.Random(seed())
    nested = [{"toCIDRSet": [{"cidr": f"10.0.0.0/{8 + depth}"}]} for depth in range(15)]
    scattered = [
        {
            "toCIDRSet": [
                {"cidr": f"{dice.randrange(11, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.0/24"}
            ],
            "toPorts": [{"ports": [{"port": dice.randint(1, 65535), "protocol": "TCP"}]}],
        }
        for _ in range(984)
    ]
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "large"},
        "spec": {
            "mode": "enforce",
            "egressDeny": [{"toPorts": [{"ports": [{"port": 7}]}]}, *nested, *scattered],
        },
    }
    policies = PolicySet(policies=(parse_document(json.dumps(document).encode()),))
    image = compiled(policies)
    assert len(image.rules) == 1000
    kernel.switch(image)
    asked = packets_about(dice, policies, PACKETS)
    assert found(image.rules, kernel.ask(asked)) == expected(policies, asked)


def test_every_rank_decides(kernel: KernelJudge) -> None:
    policies = large_set(random.Random(seed()))
    image = compile_policies(policies)
    kernel.switch(image)
    asked = packets_at(policies)
    assert found(image.rules, kernel.ask(asked)) == expected(policies, asked)


def policy(allowed: range) -> PolicySet:
    """Denies 192.0.2.0/24 and allows a prefix for each number. The class of what is denied depends on the numbers."""
    rules = ", ".join(f"{{toCIDRSet: [{{cidr: {number}.51.0.0/16}}]}}" for number in allowed)
    text = (
        "{apiVersion: aegis/v1, kind: HostNetworkPolicy, metadata: {name: p}, spec: {mode: enforce, "
        f"egressDeny: [{{toCIDRSet: [{{cidr: 192.0.2.0/24}}]}}], egress: [{rules}]}}}}"
    )
    return PolicySet(policies=(parse_document(text.encode()),))


def swapped_under_packets(
    kernel: KernelJudge, swap: Callable[[KernelJudge, CompiledImage], None], swaps: int
) -> int:
    """Wrong verdicts while the policy is switched back and forth under packets that another thread judges.

    Both policies deny one address and say nothing of the other, but their classes are numbered otherwise, so that a
    mixture of the two would find a rule that allows.
    """
    images = [compile_policies(policy(range(100, 119))), compile_policies(policy(range(193, 212)))]
    assert len(images[0].data) == len(images[1].data)
    kernel.switch(images[0])
    asked = [
        Packet(direction=Direction.EGRESS, peer=address_bytes(address), protocol=6, port=number)
        for number in range(MOST // 2)
        for address in ("192.0.2.7", "203.0.113.7")
    ]
    kernel.put(asked)
    program = kernel.program("probe_policy")
    wrong = rounds = 0
    done = threading.Event()

    def judge() -> None:
        nonlocal wrong, rounds
        while not done.is_set():
            program.run(PACKET)
            answers = kernel.answers(MOST)
            wrong += sum(each.verdict is not Verdict.DENY for each in answers[0::2])
            wrong += sum(each.any is not None for each in answers[1::2])
            rounds += 1

    worker = threading.Thread(target=judge)
    worker.start()
    try:
        for number in range(swaps):
            swap(kernel, images[(number + 1) % 2])
        while not rounds:
            done.wait(0.01)
    finally:
        done.set()
        worker.join()
    return wrong


def test_a_packet_sees_one_policy_or_the_other(kernel: KernelJudge) -> None:
    assert swapped_under_packets(kernel, KernelJudge.switch, SWAPS) == 0


def test_a_policy_changed_in_place_is_caught(kernel: KernelJudge) -> None:
    """The planted bug: the image in force is overwritten, in two halves."""

    def overwrite(kernel: KernelJudge, image: CompiledImage) -> None:
        table = kernel.slots._held[kernel.slots.position().slot].inner
        with contextlib.closing(table.mmap(writable=True)) as inner:
            middle = len(image.data) // 2
            inner[:middle] = image.data[:middle]
            os.sched_yield()
            inner[middle : len(image.data)] = image.data[middle:]
            os.sched_yield()

    wrong = 0
    while not wrong:
        wrong = swapped_under_packets(kernel, overwrite, SWAPS)


def test_a_state_word_without_an_image_denies() -> None:
    """Losing an image must not open the host."""
    with KernelJudge() as kernel:
        kernel.switch(compile_policies(PolicySet()))
        asked = [Packet(direction=Direction.EGRESS, peer=address_bytes("192.0.2.7"), protocol=6, port=80)]
        assert kernel.ask(asked)[0].verdict is Verdict.ALLOW
        kernel.object.map("aegis_images").delete(bytes(4))
        (lost,) = kernel.ask(asked)
        assert lost.verdict is Verdict.DENY
        assert lost.enforced is None
