"""Each shape of the documents: exactly the rules it means, or a refusal that names what cannot be said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aegis.errors import PolicyInvalid, PolicyUnenforceable
from aegis.model.net import Direction
from aegis.model.policy import Mode, Packet, Policy, PolicySet
from aegis.model.policy_document import parse_document
from aegis.model.policy_reference import judge
from aegis.protocol.policy_variants import REFUSED, translate, variant_of
from tests.support.sessions import WALL


def policy(body: dict[str, Any]) -> Policy:
    """The translation, read by the language's own reader."""
    found = translate(body, wall_s=WALL)
    assert found is not None
    read = parse_document(json.dumps(found.document).encode())
    assert read.name == found.name
    return read


def deploy(**config: Any) -> dict[str, Any]:
    return {"action": "deploy_policy", "policy_id": "p1", "policy_config": config}


def packet(
    address: str, protocol: int = 6, port: int = 443, direction: Direction = Direction.EGRESS
) -> Packet:
    import ipaddress

    peer = ipaddress.ip_address(address)
    raw = peer.packed if peer.version == 6 else b"\0" * 10 + b"\xff\xff" + peer.packed
    return Packet(direction=direction, peer=raw, protocol=protocol, port=port)


def verdict(body: dict[str, Any], asked: Packet) -> str:
    return judge(PolicySet(policies=(policy(body),)), asked).verdict.value


# ---- a


def test_block_one_address_and_port() -> None:
    body = deploy(
        type="network_filter", action="block", target="10.1.2.3", protocol="tcp", port="443", description="d"
    )
    found = translate(body, wall_s=WALL)
    assert found is not None
    assert (found.variant, found.name) == ("a", "p1")
    assert found.document == {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "p1", "version": 1},
        "spec": {
            "mode": "enforce",
            "egressDeny": [
                {
                    "toCIDRSet": [{"cidr": "10.1.2.3/32"}],
                    "toPorts": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
                }
            ],
        },
    }
    assert verdict(body, packet("10.1.2.3")) == "deny"
    assert [
        verdict(body, each)
        for each in (packet("10.1.2.4"), packet("10.1.2.3", 17), packet("10.1.2.3", 6, 80))
    ] == ["allow"] * 3
    assert verdict(body, packet("10.1.2.3", direction=Direction.INGRESS)) == "allow"


def test_defaults() -> None:
    body = {"action": "deploy_policy", "policy_config": {"target": "10.1.2.3"}}
    found = policy(body)
    assert (found.name, found.mode, found.rules[0].deny, found.rules[0].direction) == (
        f"policy_{WALL}", Mode.ENFORCE, True, Direction.EGRESS
    )  # fmt: skip
    assert [verdict(body, packet("10.1.2.3", protocol)) for protocol in (1, 6, 17, 132, 47)] == ["deny"] * 5


@pytest.mark.parametrize(
    ("action", "mode", "deny", "wanted"),
    [("block", "enforce", True, "deny"), ("deny", "enforce", True, "deny"), ("drop", "enforce", True, "deny"),
     ("log", "observe", True, "audit"), ("allow", "enforce", False, "allow")],
)  # fmt: skip
def test_actions(action: str, mode: str, deny: bool, wanted: str) -> None:
    body = deploy(action=action, target="10.1.2.3")
    found = policy(body)
    assert (found.mode.value, found.rules[0].deny) == (mode, deny)
    assert verdict(body, packet("10.1.2.3")) == wanted
    assert verdict(body, packet("10.9.9.9")) == "allow"


@pytest.mark.parametrize("target", ["2001:db8::1", "10.0.0.0/8", "2001:db8::/32"])
def test_what_can_be_said_though_a_deployed_agent_cannot(target: str) -> None:
    (block,) = policy(deploy(target=target)).rules[0].blocks
    assert block.cidr.text.startswith(target.split("/", maxsplit=1)[0])


@pytest.mark.parametrize("port", ["443", 443], ids=["text", "number"])
def test_a_port_alone_is_of_every_protocol_with_ports(port: object) -> None:
    body = deploy(port=port)
    assert [verdict(body, packet("10.0.0.1", protocol)) for protocol in (6, 17, 132)] == ["deny"] * 3
    assert verdict(body, packet("10.0.0.1", 6, 444)) == "allow"


def test_icmp_is_every_type_and_no_other_protocol() -> None:
    body = deploy(protocol="ICMP", target="8.8.8.8")
    assert {verdict(body, packet("8.8.8.8", 1, kind << 8)) for kind in range(256)} == {"deny"}
    assert verdict(body, packet("8.8.8.8", 6)) == "allow"
    assert verdict(deploy(protocol="icmpv6"), packet("fe80::1", 58, 128 << 8)) == "deny"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "policy_config"),
        ({"protocol": "any"}, "policy_config"),
        ({"target": "10.0.0.0/33"}, "policy_config.target"),
        ({"target": "10.0.0.1/8"}, "policy_config.target"),
        ({"target": "host.example"}, "policy_config.target"),
        ({"target": "::ffff:10.0.0.1"}, "policy_config.target"),
        ({"target": "fe80::1%eth0"}, "policy_config.target"),
        ({"target": 167772161}, "policy_config.target"),
        ({"target": "10.0.0.1", "port": "0"}, "policy_config.port"),
        ({"target": "10.0.0.1", "port": "65536"}, "policy_config.port"),
        ({"target": "10.0.0.1", "port": 70000}, "policy_config.port"),
        ({"target": "10.0.0.1", "protocol": "icmp", "port": "1"}, "policy_config.port"),
        ({"target": "2001:db8::1", "protocol": "icmp"}, "policy_config.protocol"),
        ({"target": "10.0.0.1", "action": "explode"}, "policy_config.action"),
        ({"target": "10.0.0.1", "action": 1}, "policy_config.action"),
    ],
)
def test_what_makes_no_sense(config: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        translate(deploy(**config), wall_s=WALL)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"target": "10.0.0.1", "port": "80,443"}, "policy_config.port"),
        ({"target": "10.0.0.1", "port": "80-90"}, "policy_config.port"),
        ({"target": "10.0.0.1", "port": True}, "policy_config.port"),
        ({"target": "10.0.0.1", "port": "\u0664"}, "policy_config.port"),
        ({"target": "10.0.0.1", "protocol": "gre"}, "policy_config.protocol"),
        ({"target": "10.0.0.1", "type": "dns_filter"}, "policy_config.type"),
        ({"target": "10.0.0.1", "source_ip": "10.0.0.2"}, "policy_config.source_ip"),
        ({"target": "10.0.0.1", "ttl_seconds": 60}, "policy_config.ttl_seconds"),
        ({"target": "10.0.0.1", "metadata": {"ttl_seconds": 60}}, "policy_config.metadata.ttl_seconds"),
    ],
)
def test_what_cannot_be_said_exactly(config: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyUnenforceable) as caught:
        translate(deploy(**config), wall_s=WALL)
    assert caught.value.path == path


@pytest.mark.parametrize("config", [None, [], "x"])
def test_a_policy_config_is_an_object(config: object) -> None:
    with pytest.raises(PolicyInvalid, match="policy_config"):
        translate({"action": "deploy_policy", "policy_config": config}, wall_s=WALL)


EXPIRIES = [
    "ttl",
    "ttl_seconds",
    "ttl_ts",
    "expires_at",
    "expiresAt",
    "expires",
    "duration",
    "duration_seconds",
    "not_after",
]


@pytest.mark.parametrize("key", EXPIRIES)
@pytest.mark.parametrize("body", [deploy(target="10.0.0.1"), {"type": "policy_deployment", "policy_id": "x", "target_ip": "10.0.0.1"},
                                  {"bundle_id": "x", "mode": "block", "snapshot": {"deny_cidr_v4": ["10.0.0.0/8"]}}],
                         ids=["a", "b", "g"])  # fmt: skip
def test_an_expiry_is_refused_and_never_dropped(body: dict[str, Any], key: str) -> None:
    assert policy(body)
    if "bundle_id" not in body or key not in {"ttl_seconds", "ttl_ts"}:
        with pytest.raises(PolicyUnenforceable, match="an expiry of this shape"):
            translate(body | {key: 60}, wall_s=WALL)
    with pytest.raises(PolicyUnenforceable, match="an expiry of this shape"):
        translate(body | {"metadata": {key: "2027-01-01T00:00:00Z"}}, wall_s=WALL)


@pytest.mark.parametrize("body", [deploy(target="10.0.0.1"), {"type": "policy_deployment", "policy_id": "x", "target_ip": "10.0.0.1"},
                                  {"bundle_id": "x", "mode": "block", "snapshot": {"deny_cidr_v4": ["10.0.0.0/8"]}}],
                         ids=["a", "b", "g"])  # fmt: skip
def test_a_word_that_is_not_known_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(PolicyUnenforceable, match="is not known"):
        translate(body | {"only_on_mondays": True}, wall_s=WALL)


# ---- b


FLAT: dict[str, Any] = {
    "type": "policy_deployment", "action": "deploy", "policy_id": "block-dns", "policy_name": "Block", "description": "d",
    "target_ip": "8.8.8.8", "protocol": "icmp", "direction": "egress", "priority": 100, "enabled": True,
}  # fmt: skip


def test_the_flat_shape() -> None:
    found = policy(FLAT)
    assert (found.name, found.priority, found.mode) == ("block-dns", 100, Mode.ENFORCE)
    assert verdict(FLAT, packet("8.8.8.8", 1, 8 << 8)) == "deny"
    assert verdict(FLAT, packet("8.8.8.8", 6)) == "allow"


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("egress", ["egress"]),
        ("outbound", ["egress"]),
        ("ingress", ["ingress"]),
        ("Inbound", ["ingress"]),
        ("both", ["egress", "ingress"]),
    ],
)
def test_directions(word: str, wanted: list[str]) -> None:
    assert [rule.direction.value for rule in policy(FLAT | {"direction": word}).rules] == wanted


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"enabled": False}, PolicyUnenforceable), ({"enabled": 1}, PolicyUnenforceable), ({"action": "withdraw"}, PolicyUnenforceable),
     ({"direction": "sideways"}, PolicyInvalid), ({"priority": -1}, PolicyInvalid), ({"priority": "1"}, PolicyInvalid),
     ({"priority": True}, PolicyInvalid), ({"priority": 1 << 40}, PolicyInvalid), ({"target_ip": "", "protocol": ""}, PolicyInvalid)],
)  # fmt: skip
def test_the_flat_shape_refused(changed: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        translate(FLAT | changed, wall_s=WALL)


def test_the_flat_shape_has_a_name() -> None:
    with pytest.raises(PolicyInvalid, match="policy_id"):
        translate({key: value for key, value in FLAT.items() if key != "policy_id"}, wall_s=WALL)


# ---- g


def assignment(mode: str = "block", **snapshot: Any) -> dict[str, Any]:
    return {
        "bundle_id": "b1",
        "mode": mode,
        "snapshot": snapshot,
        "ttl_seconds": 0,
        "selector": {},
        "dry_run": False,
    }


def test_lists_of_an_assignment() -> None:
    body = assignment(
        allow_cidr_v4=["10.0.0.0/8"],
        deny_cidr_v4=["192.0.2.0/24", "198.51.100.7/32"],
        deny_cidr_v6=["2001:db8::/32"],
    )
    found = policy(body)
    assert (found.name, found.mode, [rule.path for rule in found.rules]) == (
        "b1",
        Mode.ENFORCE,
        ["egress[0]", "egressDeny[0]"],
    )
    wanted = {
        "10.1.1.1": "allow",
        "192.0.2.9": "deny",
        "198.51.100.7": "deny",
        "198.51.100.8": "allow",
        "2001:db8::9": "deny",
    }
    assert {address: verdict(body, packet(address)) for address in wanted} == wanted


@pytest.mark.parametrize(
    ("mode", "dry_run", "wanted"),
    [("observe", False, Mode.OBSERVE), ("block", False, Mode.ENFORCE), ("block", True, Mode.OBSERVE)],
)
def test_modes_of_an_assignment(mode: str, dry_run: bool, wanted: Mode) -> None:
    body = assignment(mode, deny_cidr_v4=["192.0.2.0/24"]) | {"dry_run": dry_run}
    assert policy(body).mode is wanted


@pytest.mark.parametrize(
    ("words", "ends_s"),
    [
        ({}, None),
        ({"ttl_seconds": 0}, None),
        ({"ttl_seconds": 3600}, WALL + 3600),
        ({"ttl_ts": WALL + 90}, WALL + 90),
        ({"ttl_seconds": 3600, "ttl_ts": WALL + 90}, WALL + 90),
        ({"ttl_seconds": 3600, "ttl_ts": 0}, WALL + 3600),
    ],
)
def test_the_end_of_an_assignment(words: dict[str, int], ends_s: int | None) -> None:
    found = policy(assignment(deny_cidr_v4=["192.0.2.0/24"]) | words)
    assert found.expires_ms == (None if ends_s is None else ends_s * 1000)


@pytest.mark.parametrize("key", ["ttl_seconds", "ttl_ts"])
@pytest.mark.parametrize("value", [-1, True, False, 1.5, "60", [60], 1 << 62, 1 << 80])
def test_an_end_that_makes_no_sense(key: str, value: object) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        translate(assignment(deny_cidr_v4=["192.0.2.0/24"]) | {key: value}, wall_s=WALL)
    assert caught.value.path == key


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"selector": {"os": "linux"}}, "selector"),
        ({"duration": 1}, "duration"),
        ({"snapshot": {"edges": [{"src": "a", "dst": "b", "port": 1, "protocol": "tcp"}]}}, "snapshot.edges"),
        ({"snapshot": {"rules": [{"id": "x"}]}}, "snapshot.rules"),
        ({"snapshot": {"else": []}}, "snapshot.else"),
        ({"snapshot": {"allow_cidr_v4": ["10.1.0.0/16"], "deny_cidr_v4": ["10.0.0.0/8"]}}, "snapshot"),
        ({"snapshot": {"allow_cidr_v4": ["10.0.0.0/8"], "deny_cidr_v4": ["10.1.0.0/16"]}}, "snapshot"),
    ],
)
def test_an_assignment_that_cannot_be_said(changed: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyUnenforceable) as caught:
        translate(assignment(deny_cidr_v4=["192.0.2.0/24"]) | changed, wall_s=WALL)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "changed",
    [{"mode": "shout"}, {"mode": None}, {"snapshot": {}}, {"snapshot": []}, {"snapshot": {"deny_cidr_v4": "10.0.0.0/8"}}, {"dry_run": 1},
     {"snapshot": {"deny_cidr_v4": [1]}}, {"snapshot": {"deny_cidr_v4": ["2001:db8::/32"]}}, {"snapshot": {"deny_cidr_v6": ["10.0.0.0/8"]}},
     {"snapshot": {"deny_cidr_v4": ["10.0.0.1/8"]}}],
)  # fmt: skip
def test_an_assignment_that_makes_no_sense(changed: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid):
        translate(assignment(deny_cidr_v4=["192.0.2.0/24"]) | changed, wall_s=WALL)


# ---- the others


SHAPES: dict[str, list[dict[str, Any]]] = {
    "c": [{"policy_id": "p", "action": "deploy", "artifact": {"id": "x", "url": "u"}}, {"policy_id": "p", "action": "withdraw"}],
    "d": [{"action": "policy_update", "policies": ["a", "b"]}],
    "e": [{"id": "a", "host_id": "h", "policy_id": "p", "bundle": {"content": "e30="}, "selectors": {}}, {"let_cidrs": []}, {"policy_edges": []}],
    "f": [
        {"id": "p", "rules": [{"id": "r", "action": "deny", "conditions": []}]},
        {"action": "block", "target": "10.0.0.1", "protocol": "tcp", "duration": "1h"},
        {"action": "unblock", "policy_id": "x"},
        {"template": "x"},
    ],
    "h": [{"mode": "audit", "bundle_id": "x"}, {"type": "audit_bundle"}],
    "i": [{"plan_id": "x"}, {"seg_maps": []}],
    "j": [{"pack_id": "x", "pack_version": 1, "artifact_url": "u"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("letter", "body"), [(letter, body) for letter, bodies in SHAPES.items() for body in bodies]
)
def test_the_others_are_refused_by_name(letter: str, body: dict[str, Any]) -> None:
    assert variant_of(body) == letter
    with pytest.raises(PolicyUnenforceable, match=rf"^variant {letter}: .*\(variant {letter}\)"):
        translate(body, wall_s=WALL)


def test_every_letter_has_a_shape() -> None:
    assert set(SHAPES) == set(REFUSED)


@pytest.mark.parametrize(
    "body", [{}, {"type": "list_modules"}, {"action": "ping"}, {"action": "deploy"}, {"policy_id": "x"}]
)
def test_what_is_no_policy(body: dict[str, Any]) -> None:
    assert translate(body, wall_s=WALL) is None
