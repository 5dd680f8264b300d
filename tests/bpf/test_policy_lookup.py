"""The kernel's search against the reference and the image reader: random policies, planted bugs, atomic swaps."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator

import pytest

from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_walk import ImageReader
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document
from tests.support.policies import packets_about, random_set
from tests.support.policy_kernel import MOST, PACKET, KernelJudge
from tests.support.policy_mutants import MUTANTS, expected, found, planted
from tests.support.scale import scaled, seed

SETS, PACKETS = scaled(23, 200), scaled(503, 2000)
SWAPS = scaled(101, 10_000)

pytestmark = pytest.mark.require("bpf", "root")


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelJudge]:
    with KernelJudge() as judge:
        yield judge


def differences(kernel: KernelJudge, dice: random.Random) -> int:
    """Packets that the kernel judges otherwise than the reference; it never differs from the image's reader."""
    policies = random_set(dice)
    asked = packets_about(dice, policies, PACKETS)
    image = compile_policies(policies)
    reader = ImageReader(image.data)
    kernel.switch(image)
    got = kernel.ask(asked)
    assert got == [reader.judge(packet) for packet in asked]
    return sum(
        one != other for one, other in zip(found(image.rules, got), expected(policies, asked), strict=True)
    )


def test_the_kernel_decides_as_the_reference(kernel: KernelJudge) -> None:
    dice = random.Random(seed())
    assert [differences(kernel, dice) for _ in range(SETS)] == [0] * SETS


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_seen_in_the_kernel(kernel: KernelJudge, mutant: str) -> None:
    dice = random.Random(seed())
    with planted(mutant):
        assert any(differences(kernel, dice) for _ in range(SETS))


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
    image = compile_policies(policies)
    assert len(image.rules) == 1000
    kernel.switch(image)
    asked = packets_about(dice, policies, PACKETS)
    assert found(image.rules, kernel.ask(asked)) == expected(policies, asked)


def policy(*denied: str) -> PolicySet:
    """Denies the addresses, in this order of classes."""
    rules = ", ".join(f"{{toCIDRSet: [{{cidr: {each}}}]}}" for each in denied)
    text = f"{{apiVersion: aegis/v1, kind: HostNetworkPolicy, metadata: {{name: p}}, spec: {{mode: enforce, egressDeny: [{rules}]}}}}"
    return PolicySet(policies=(parse_document(text.encode()),))


def test_a_packet_sees_one_policy_or_the_other(kernel: KernelJudge) -> None:
    """Two policies deny the same addresses by different classes and rules: any mixture of them is a wrong verdict.

    The other thread judges as fast as it can while the policy is switched back and forth.
    """
    filler = [f"198.51.{number}.0/24" for number in range(97)]
    wanted = "192.0.2.0/24"
    images = [
        compile_policies(policy(wanted, *filler)),
        compile_policies(policy(*filler[:53], wanted, *reversed(filler[53:]))),
    ]
    kernel.switch(images[0])
    half = MOST // 2
    asked = [
        Packet(direction=Direction.EGRESS, peer=address_bytes(address), protocol=6, port=number)
        for number in range(half)
        for address in ("192.0.2.7", "203.0.113.7")
    ]
    kernel.put(asked)
    ranks = ({0}, {53})
    program = kernel.program("probe_policy")
    wrong: list[str] = []
    rounds = 0
    done = threading.Event()

    def judge() -> None:
        nonlocal rounds
        while not done.is_set():
            program.run(PACKET)
            rounds += 1
            answers = kernel.answers(MOST)
            denied = {each.enforced for each in answers[0::2]}
            if not denied <= ranks[0] | ranks[1] or any(
                each.verdict is not Verdict.DENY for each in answers[0::2]
            ):
                wrong.append(f"denied address: {denied}")
            if any(each.verdict is not Verdict.ALLOW for each in answers[1::2]):
                wrong.append("allowed address")

    worker = threading.Thread(target=judge)
    worker.start()
    try:
        for number in range(SWAPS):
            kernel.switch(images[(number + 1) % 2])
    finally:
        done.set()
        worker.join()
    assert rounds > 1
    assert not wrong


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
