"""The reference says what the documents say, case by case."""

from __future__ import annotations

import pytest

from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Packet, PolicySet
from aegis.model.policy_document import parse_document
from aegis.model.policy_reference import judge


def policies(*specs: str) -> PolicySet:
    """One policy a spec, in flow style, named p0, p1..."""
    found = PolicySet()
    for number, spec in enumerate(specs):
        text = f"apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {{name: p{number}}}\nspec: {{{spec}}}\n"
        found = found.with_policy(parse_document(text.encode()))
    return found


def packet(
    peer: str, protocol: int = 6, port: int = 0, *, into: bool = False, fragment: bool = False
) -> Packet:
    return Packet(
        direction=Direction.INGRESS if into else Direction.EGRESS,
        peer=address_bytes(peer),
        protocol=protocol,
        port=port,
        fragment=fragment,
    )


TELNET = "mode: enforce, egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], toPorts: [{ports: [{port: 23, endPort: 25, protocol: TCP}]}]}]"


@pytest.mark.parametrize(
    ("peer", "protocol", "port", "into", "verdict"),
    [
        ("10.0.0.1", 6, 23, False, Verdict.DENY),
        ("10.255.255.255", 6, 25, False, Verdict.DENY),
        ("10.0.0.1", 6, 22, False, Verdict.ALLOW),
        ("10.0.0.1", 6, 26, False, Verdict.ALLOW),
        ("10.1.0.0", 6, 23, False, Verdict.ALLOW),
        ("10.1.255.255", 6, 23, False, Verdict.ALLOW),
        ("10.2.0.0", 6, 23, False, Verdict.DENY),
        ("9.255.255.255", 6, 23, False, Verdict.ALLOW),
        ("11.0.0.0", 6, 23, False, Verdict.ALLOW),
        ("10.0.0.1", 17, 23, False, Verdict.ALLOW),
        ("10.0.0.1", 6, 23, True, Verdict.ALLOW),
        ("fd00::1", 6, 23, False, Verdict.ALLOW),
    ],
)
def test_addresses_ports_and_exceptions(
    peer: str, protocol: int, port: int, into: bool, verdict: Verdict
) -> None:
    assert judge(policies(TELNET), packet(peer, protocol, port, into=into)).verdict is verdict


def test_lower_priority_decides_first_and_denial_wins_a_tie() -> None:
    deny, allow = (
        "mode: enforce, priority: {}, egressDeny: [{{}}]",
        "mode: enforce, priority: {}, egress: [{{}}]",
    )
    for low, high, verdict in ((1, 2, Verdict.DENY), (2, 1, Verdict.ALLOW), (7, 7, Verdict.DENY)):
        both = policies(allow.format(high), deny.format(low))
        assert judge(both, packet("192.0.2.1", 6, 1)).verdict is verdict


def test_an_observing_policy_never_changes_what_passes() -> None:
    first = policies("priority: 1, egress: [{}]", "mode: enforce, egressDeny: [{}]")
    outcome = judge(first, packet("192.0.2.1"))
    assert outcome.verdict is Verdict.DENY
    assert outcome.any is not None
    assert outcome.any.policy == "p0"
    assert outcome.enforced is not None
    assert outcome.enforced.policy == "p1"
    second = judge(
        policies("priority: 1, egressDeny: [{}]", "mode: enforce, egress: [{}]"), packet("192.0.2.1")
    )
    assert second.verdict is Verdict.AUDIT


def test_any_with_a_port_is_tcp_udp_and_sctp_and_without_one_everything() -> None:
    ports = policies("mode: enforce, egressDeny: [{toPorts: [{ports: [{port: 53}]}]}]")
    denied = [
        number for number in range(256) if judge(ports, packet("::1", number, 53)).verdict is Verdict.DENY
    ]
    assert denied == [6, 17, 132]
    whole = policies("mode: enforce, egressDeny: [{toPorts: [{ports: [{protocol: ANY}]}]}]")
    assert all(judge(whole, packet("::1", number)).verdict is Verdict.DENY for number in range(256))


def test_later_fragments() -> None:
    deny = policies("mode: enforce, egressDeny: [{toPorts: [{ports: [{port: 23, protocol: TCP}]}]}]")
    assert judge(deny, packet("10.0.0.1", 6, fragment=True)).verdict is Verdict.DENY
    assert judge(deny, packet("10.0.0.1", 17, fragment=True)).verdict is Verdict.ALLOW
    for ports, verdict in (("{port: 23, protocol: TCP}", Verdict.DENY), ("{protocol: TCP}", Verdict.ALLOW)):
        allow = policies(
            f"mode: enforce, priority: 1, egress: [{{toPorts: [{{ports: [{ports}]}}]}}]",
            "mode: enforce, egressDeny: [{}]",
        )
        assert judge(allow, packet("10.0.0.1", 6, fragment=True)).verdict is verdict


def test_icmp_types_belong_to_their_family() -> None:
    echo = policies(
        "mode: enforce, ingressDeny: [{icmps: [{fields: [{type: 8}, {family: IPv6, type: 128}]}]}]"
    )
    for peer, protocol, kind, verdict in (
        ("10.0.0.1", 1, 8, Verdict.DENY),
        ("10.0.0.1", 1, 0, Verdict.ALLOW),
        ("10.0.0.1", 58, 128, Verdict.ALLOW),
        ("fd00::1", 58, 128, Verdict.DENY),
        ("fd00::1", 58, 129, Verdict.ALLOW),
        ("fd00::1", 1, 8, Verdict.ALLOW),
    ):
        for code in (0, 255):
            asked = packet(peer, protocol, kind << 8 | code, into=True)
            assert judge(echo, asked).verdict is verdict, asked.text


def test_no_policy_allows() -> None:
    outcome = judge(PolicySet(), packet("10.0.0.1", 6, 23))
    assert outcome.verdict is Verdict.ALLOW
    assert outcome.any is None
