"""The documents in `docs/policy.md`, as written: read, compiled, and judged by definition, image and kernel alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis.cli.policy import policy as verbs
from aegis.kernel.policy_image import compile_policies, names_of
from aegis.kernel.policy_walk import ImageReader
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet, Policy, PolicySet
from aegis.model.policy_document import parse_document
from aegis.model.policy_reference import judge
from tests.support.policies import EPOCH_MS
from tests.support.policy_kernel import KernelJudge

pytestmark = pytest.mark.require("bpf", "root")

GUIDE = (Path(__file__).resolve().parents[2] / "docs/policy.md").read_text()
TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
MEANT = 3  # everybody, and the one subject of the document
BEYOND_MS = 4_102_444_800_000  # 2100-01-01


def out(peer: str, protocol: int = TCP, port: int = 0, **more: object) -> Packet:
    return _packet(Direction.EGRESS, peer, protocol, port, more)


def incoming(peer: str, protocol: int = TCP, port: int = 0, **more: object) -> Packet:
    return _packet(Direction.INGRESS, peer, protocol, port, more)


def _packet(way: Direction, peer: str, protocol: int, port: int, more: dict[str, object]) -> Packet:
    more = {"now_ms": EPOCH_MS, **more}
    return Packet(direction=way, peer=address_bytes(peer), protocol=protocol, port=port, **more)  # type: ignore[arg-type]


# Of each document: packets, and what is to become of them under it alone.
WANTED: dict[str, list[tuple[Packet, str]]] = {
    "no-telnet": [
        (out("10.2.3.4", TCP, 23), "deny"),
        (out("10.1.3.4", TCP, 23), "allow"),
        (out("10.2.3.4", TCP, 22), "allow"),
        (out("10.2.3.4", UDP, 23), "allow"),
        (out("fd00::1", TCP, 8000), "deny"),
        (out("fd00::1", TCP, 8099), "deny"),
        (out("fd00::1", TCP, 8100), "allow"),
        (out("10.2.3.4", TCP, fragment=True), "deny"),
        (incoming("10.2.3.4", TCP, 23), "allow"),
    ],
    "web-only": [
        (out("192.0.2.1", TCP, 443, subjects=MEANT, names=("api.example.com",)), "allow"),
        (out("192.0.2.1", TCP, 443, subjects=MEANT, names=("a.cdn.example.com",)), "allow"),
        (out("192.0.2.1", TCP, 443, subjects=MEANT, names=("a.b.cdn.example.com",)), "deny"),
        (out("192.0.2.1", TCP, 80, subjects=MEANT, names=("api.example.com",)), "deny"),
        (out("192.0.2.1", TCP, 443, subjects=MEANT), "deny"),
        (out("192.0.2.1", TCP, 443), "allow"),
        (incoming("192.0.2.1", TCP, 443, subjects=MEANT), "allow"),
        (out("192.0.2.1", TCP, 80, subjects=MEANT, now_ms=BEYOND_MS), "allow"),
    ],
    "way-in": [
        (incoming("192.0.2.9", TCP, 22), "allow"),
        (incoming("2001:db8:1::9", TCP, 22), "allow"),
        (incoming("203.0.113.1", TCP, 22), "audit"),
        (incoming("192.0.2.9", TCP, 23), "audit"),
        (incoming("192.0.2.9", ICMP, 8 << 8), "allow"),
        (incoming("192.0.2.9", ICMP, 13 << 8), "audit"),
        (incoming("2001:db8:1::9", ICMPV6, 128 << 8), "allow"),
        (incoming("2001:db8:2::9", ICMPV6, 128 << 8), "audit"),
        (out("203.0.113.1", TCP, 22), "allow"),
    ],
    "guests": [
        (out("203.0.113.1", TCP, 443, subjects=MEANT), "deny"),
        (out("2001:db8::1", 47, subjects=MEANT), "deny"),
        (out("203.0.113.1", TCP, 443), "allow"),
        (incoming("198.51.100.9", UDP, 5000, subjects=MEANT), "deny"),
        (incoming("198.51.100.9", SCTP, 873, subjects=MEANT), "deny"),
        (incoming("198.51.100.9", TCP, 874, subjects=MEANT), "allow"),
        (incoming("198.51.100.7", UDP, 5000, subjects=MEANT), "allow"),
        (incoming("198.51.100.9", UDP, 5000), "allow"),
    ],
}


def documents() -> dict[str, Policy]:
    """By name, in the order of the guide."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    found = [parse_document(block.encode()) for block in blocks]
    return {policy.name: policy for policy in found}


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelJudge]:
    with KernelJudge() as made:
        yield made


def test_every_document_of_the_guide_is_judged_here() -> None:
    assert list(documents()) == list(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_a_document_means_what_it_says(kernel: KernelJudge, name: str) -> None:
    policies = PolicySet(policies=(documents()[name],))
    packets = [packet for packet, _ in WANTED[name]]
    wanted = [verdict for _, verdict in WANTED[name]]
    known = {host for packet in packets for host in packet.names}
    classes = {tuple(n for n, each in enumerate(policies.names()) if each.matches(host)) for host in known}
    image = compile_policies(policies, name_classes=tuple(sorted(classes - {()})), boot_epoch_ms=EPOCH_MS)
    reader = ImageReader(image.data)
    kernel.switch(image)
    assert [judge(policies, packet).verdict.value for packet in packets] == wanted
    assert [
        reader.judge(packet, names=names_of(image, packet.names), boot_epoch_ms=EPOCH_MS).verdict.value
        for packet in packets
    ] == wanted
    assert [each.verdict.value for each in kernel.ask(packets)] == wanted


def test_the_guide_has_each_construct() -> None:
    """Every key and value that its tables name is in a document of it."""
    blocks = "".join(re.findall(r"^```yaml\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL))
    table = "".join(line for line in GUIDE.splitlines(keepends=True) if line.startswith("| `"))
    keys = set(re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE))
    words = {
        word.removeprefix("spec.").removeprefix("metadata.")
        for key in keys
        for word in re.findall(r"`([\w.]+)", key)
    }
    words |= {
        "except",
        "endPort",
        "matchName",
        "matchPattern",
        "unit",
        "cgroup",
        "exe",
        "user",
        "icmps",
        "family",
    }
    assert len(words) > 20
    assert sorted(word for word in words if f"{word}:" not in blocks) == []


def test_the_verbs_of_the_guide_are_the_tools() -> None:
    said = re.findall(r"^    aegis policy (\w+)", GUIDE, flags=re.MULTILINE)
    assert sorted(set(said)) == sorted(verbs.commands)
