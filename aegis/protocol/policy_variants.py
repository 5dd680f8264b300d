"""Policy messages of the legacy documents, turned into policy documents of ours where that can be done exactly.

Letters are those of the documents' shapes:

    a  `action` deploy_policy with a `policy_config`: the one a deployed agent acts on
    b  flat, `type` policy_deployment
    d  as a, on the agent's own channel; its broadcast of names is refused
    g  an assignment with a `snapshot` of CIDR lists; it may end (`ttl_ts`, or `ttl_seconds` after it came)
    c e f h i j  refused by name

No word is dropped: a member that is not known, any other expiry, a selector or a condition refuses the whole message.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from aegis.errors import PolicyInvalid, PolicyUnenforceable
from aegis.model.policy import MAX_PRIORITY
from aegis.model.policy_document import API_VERSION, KIND

Body = Mapping[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """`document` is a HostNetworkPolicy as a JSON object, named `name`; `variant` the letter it came from."""

    variant: str
    name: str
    document: dict[str, Any]


# Who carries the message, and what is for people: no word of these changes what a rule means.
_CARRIER = frozenset({"command_id", "timestamp", "description", "created_by", "created_at", "metadata"})
_EXPIRIES = (
    "ttl", "ttl_seconds", "ttl_ts", "expires_at", "expiresAt", "expires", "duration", "duration_seconds",
    "not_after",
)  # fmt: skip
_DENY_WORDS = frozenset({"block", "deny", "drop"})
_EGRESS_WORDS = frozenset({"egress", "outbound", "out"})
_INGRESS_WORDS = frozenset({"ingress", "inbound", "in"})
_BOTH_WORDS = frozenset({"both", "bidirectional"})
_WITH_PORTS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
_ICMP = {"icmp": "IPv4", "icmpv6": "IPv6", "icmp6": "IPv6"}
_ANY_WORDS = frozenset({"", "any", "all", "ip"})

# Variants that are known and cannot be said exactly: why.
REFUSED = {
    "c": "artifact delivery (variant c): the policy is behind a URL and its content is not defined",
    "d": "a broadcast list of policy names (variant d): it says nothing of their rules",
    "e": "an assignment with a bundle (variant e): its numbers are not addresses, and its signature words no signatures",
    "f": "a rule set or quick form of the archived HTTP interface (variant f): its order of rules is not defined",
    "h": "an audit bundle (variant h): it is for a report, not for enforcement",
    "i": "a segmentation map or plan (variant i): it is internal to the backend",
    "j": "a detection pack (variant j): it holds detections, no policy",
}


def variant_of(body: Body) -> str | None:
    """The letter of a message's shape; None where it is none of them."""
    action, kind = body.get("action"), body.get("type")
    if body.keys() & {"pack_id", "pack_version", "artifact_url"}:
        return "j"
    if "artifact" in body:
        return "c"
    if body.keys() & {
        "bundle",
        "egress_policies",
        "ingress_policies",
        "policy_edges",
        "let_cidrs",
        "allow_cidrs",
    }:
        return "e"
    if body.get("mode") == "audit" or "audit_bundle" in body or kind == "audit_bundle":
        return "h"
    if body.keys() & {"snapshot", "bundle_id"}:
        return "g"
    if action == "deploy_policy":
        return "a"
    if action == "policy_update":
        return "d"
    if kind == "policy_deployment":
        return "b"
    if body.keys() & {"seg_maps", "maps", "plan", "plan_id"}:
        return "i"
    if body.keys() & {"rules", "conditions", "template"} or action == "unblock":
        return "f"
    if isinstance(action, str) and "target" in body:
        return "f"
    if action in ("deploy", "withdraw", "update") and "policy_id" in body:  # a tuple: it may be of any type
        return "c"
    return None


def translate(body: Body, *, wall_s: int) -> Translated | None:
    """The document a message means; None where it is no policy message.

    Raises PolicyUnenforceable (cannot be said exactly) or PolicyInvalid (a member makes no sense), with the member.
    """
    variant = variant_of(body)
    if variant is None:
        return None
    if variant in REFUSED:
        raise PolicyUnenforceable(f"variant {variant}", REFUSED[variant])
    if variant == "g":
        return _assignment(body, wall_s)
    _refuse_expiry(body, "")
    return _policy_deployment(body) if variant == "b" else _deploy_policy(body, wall_s)


# ---- variant a, and d where it has rules


def _deploy_policy(body: Body, wall_s: int) -> Translated:
    _only(body, {"action", "type", "policy_id", "policy_config", "policy_name", "name", *_CARRIER}, "")
    config = body.get("policy_config")
    if not isinstance(config, dict):
        raise PolicyInvalid("policy_config", "must be an object")
    path = "policy_config"
    _refuse_expiry(config, f"{path}.")
    _only(config, {"type", "action", "target", "protocol", "port", "name", *_CARRIER}, f"{path}.")
    kind = _text(config, "type", f"{path}.", "network_filter")
    if kind != "network_filter":
        raise PolicyUnenforceable(f"{path}.type", f"{kind!r} is not network_filter")
    name = _text(body, "policy_id", "", f"policy_{wall_s}")
    mode, deny = _effect(_text(config, "action", f"{path}.", "block"), f"{path}.action")
    networks = _target(_text(config, "target", f"{path}.", ""), f"{path}.target")
    service = _service(
        _text(config, "protocol", f"{path}.", ""), _port(config, f"{path}.port"), networks, path
    )
    if not networks and not service:
        raise PolicyInvalid(path, "names neither target, protocol nor port")
    section = "egressDeny" if deny else "egress"
    return _document("a", name, mode, {section: [_rule("toCIDRSet", networks, service)]})


# ---- variant b


def _policy_deployment(body: Body) -> Translated:
    known = {"type", "action", "policy_id", "policy_name", "target_ip", "protocol", "direction", "priority"}
    _only(body, known | {"enabled"} | _CARRIER, "")
    action = _text(body, "action", "", "deploy")
    if action != "deploy":
        raise PolicyUnenforceable("action", f"{action!r} is not deploy")
    if body.get("enabled", True) is not True:
        raise PolicyUnenforceable(
            "enabled", "a policy that is not in force cannot be deployed: remove it instead"
        )
    networks = _target(_text(body, "target_ip", "", ""), "target_ip")
    service = _service(_text(body, "protocol", "", ""), None, networks, "")
    if not networks and not service:
        raise PolicyInvalid("target_ip", "names neither target_ip nor protocol")
    rules: dict[str, list[dict[str, Any]]] = {}
    direction = _text(body, "direction", "", "egress").lower()
    if direction not in _EGRESS_WORDS | _INGRESS_WORDS | _BOTH_WORDS:
        raise PolicyInvalid("direction", f"{direction[:40]!r} is no direction")
    if direction not in _INGRESS_WORDS:
        rules["egressDeny"] = [_rule("toCIDRSet", networks, service)]
    if direction not in _EGRESS_WORDS:
        rules["ingressDeny"] = [_rule("fromCIDRSet", networks, service)]
    if "policy_id" not in body:
        raise PolicyInvalid("policy_id", "is missing")
    return _document("b", _text(body, "policy_id", "", ""), "enforce", rules, _priority(body))


def _priority(body: Body) -> int | None:
    """As it stands: the lower number decides first, as in the table of channels that the documents give."""
    priority = body.get("priority")
    if priority is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise PolicyInvalid("priority", f"must be a whole number from 0 to {MAX_PRIORITY}")
    return priority


# ---- variant g


def _assignment(body: Body, wall_s: int) -> Translated:
    _refuse_expiry(body, "", but=("ttl_seconds", "ttl_ts"))
    known = {"bundle_id", "id", "mode", "selector", "snapshot", "dry_run", "type", "action", "status"}
    _only(body, known | {"snapshot_sig", "snapshot_kid", "updated_at"} | _CARRIER, "")
    if body.get("selector"):
        raise PolicyUnenforceable("selector", "a policy applies to the host that is given it")
    mode = {"observe": "observe", "block": "enforce"}.get(_text(body, "mode", "", ""))
    if mode is None:
        raise PolicyInvalid("mode", "must be observe or block")
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise PolicyInvalid("dry_run", "must be true or false")
    snapshot = body.get("snapshot")
    if not isinstance(snapshot, dict):
        raise PolicyInvalid("snapshot", "must be an object")
    lists = {"allow_cidr_v4": 4, "deny_cidr_v4": 4, "allow_cidr_v6": 6, "deny_cidr_v6": 6}
    _refuse_expiry(snapshot, "snapshot.")
    _only(snapshot, {*lists, "edges", "rules"}, "snapshot.")
    if snapshot.get("edges"):
        raise PolicyUnenforceable(
            "snapshot.edges", "an edge has a source that may be another host, and no action"
        )
    if snapshot.get("rules"):
        raise PolicyUnenforceable("snapshot.rules", "the language of conditions is not defined")
    allowed: list[Network] = []
    denied: list[Network] = []
    for key, family in lists.items():
        found = _networks(snapshot.get(key), family, f"snapshot.{key}")
        (allowed if key.startswith("allow") else denied).extend(found)
    for one in allowed:
        if any(_overlap(one, other) for other in denied):
            reason = f"{one} is allowed and denied in part, and which of both decides is not defined"
            raise PolicyUnenforceable("snapshot", reason)
    rules = {}
    if allowed:
        rules["egress"] = [_rule("toCIDRSet", allowed, {})]
    if denied:
        rules["egressDeny"] = [_rule("toCIDRSet", denied, {})]
    if not rules:
        raise PolicyInvalid("snapshot", "has no rule")
    name = _text(body, "bundle_id", "", "")
    return _document("g", name, "observe" if dry_run else mode, rules, expires=_ends(body, wall_s))


def _ends(body: Body, wall_s: int) -> str | None:
    """When an assignment ends: at `ttl_ts`, the instant its backend worked out; without one `ttl_seconds` after it came.

    0 is the legacy word for no end, of either.
    """
    for key, base in (("ttl_ts", 0), ("ttl_seconds", wall_s)):
        seconds = body.get(key)
        if seconds is None or (seconds == 0 and not isinstance(seconds, bool)):
            continue
        try:
            if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
                raise ValueError(seconds)
            instant = dt.datetime.fromtimestamp(base + seconds, dt.UTC)
        except (ValueError, OverflowError, OSError):
            raise PolicyInvalid(key, "must be a whole number of seconds") from None
        return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
    return None


def _networks(value: Any, family: int, path: str) -> list[Network]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise PolicyInvalid(path, "must be a list of texts")
    found: list[Network] = []
    for place, each in enumerate(value):
        network = _network(each, f"{path}[{place}]")
        if network.version != family:
            raise PolicyInvalid(f"{path}[{place}]", f"is not IPv{family}")
        found.append(network)
    return found


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


# ---- what they have in common


def _document(
    variant: str,
    name: str,
    mode: str,
    rules: dict[str, list[dict[str, Any]]],
    priority: int | None = None,
    *,
    expires: str | None = None,
) -> Translated:
    spec: dict[str, Any] = {"mode": mode}
    if priority is not None:
        spec["priority"] = priority
    if expires is not None:
        spec["expiresAt"] = expires
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "version": 1},
        "spec": spec | rules,
    }
    return Translated(variant=variant, name=name, document=document)


def _effect(word: str, path: str) -> tuple[str, bool]:
    """Mode, and whether the rule denies. `log` lets pass and tells of it: a denial in mode observe."""
    if word in _DENY_WORDS:
        return "enforce", True
    if word == "log":
        return "observe", True
    if word == "allow":
        return "enforce", False
    raise PolicyInvalid(path, f"{word[:40]!r} is none of allow, block, deny, drop, log")


def _rule(peers: str, networks: Iterable[Network], service: dict[str, Any]) -> dict[str, Any]:
    blocks = [{"cidr": str(each)} for each in networks]
    return ({peers: blocks} if blocks else {}) | service


def _target(text: str, path: str) -> list[Network]:
    return [_network(text, path)] if text else []


def _network(text: str, path: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise PolicyInvalid(path, f"is no address or CIDR: {error}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise PolicyInvalid(path, "is IPv4 mapped: write it as IPv4")
    if getattr(network.network_address, "scope_id", None):
        raise PolicyInvalid(path, "has a zone, which is no part of a rule")
    return network


def _port(config: Body, path: str) -> int | None:
    """A text of digits; deployed agents ignore a number, which can only mean the same."""
    value = config.get("port")
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyUnenforceable(path, "must be one port")
    if not 1 <= value <= 65535:
        raise PolicyInvalid(path, "must be from 1 to 65535")
    return value


def _service(protocol: str, port: int | None, networks: list[Network], path: str) -> dict[str, Any]:
    word = protocol.lower()
    where = f"{path}.protocol" if path else "protocol"
    if word in _ICMP:
        if port is not None:
            raise PolicyInvalid(f"{path}.port", f"{word} has no ports")
        family = _ICMP[word]
        if any(f"IPv{each.version}" != family for each in networks):
            raise PolicyInvalid(where, f"{word} never goes to an address of the other family")
        return {"icmps": [{"fields": [{"family": family, "type": each} for each in range(256)]}]}
    if word not in _WITH_PORTS and word not in _ANY_WORDS:
        raise PolicyUnenforceable(where, f"protocol {word[:40]!r} cannot be said in a rule")
    entry: dict[str, Any] = {"protocol": _WITH_PORTS[word]} if word in _WITH_PORTS else {}
    if port is not None:
        entry = {"port": port} | (entry or {"protocol": "ANY"})
    return {"toPorts": [{"ports": [entry]}]} if entry else {}


def _text(body: Body, key: str, path: str, default: str) -> str:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise PolicyInvalid(f"{path}{key}", "must be text")
    return value


def _only(body: Body, known: Collection[str], path: str) -> None:
    for key in body:
        if key not in known and key not in _EXPIRIES:  # those were looked at, and say nothing
            raise PolicyUnenforceable(f"{path}{key[:60]}", "is not known, and may change what is meant")


def _refuse_expiry(body: Body, path: str, *, but: Collection[str] = ()) -> None:
    """Also where it hides in the metadata. `but`: those of the body itself that are understood."""
    metadata = body.get("metadata")
    for place, where in ((path, body), (f"{path}metadata.", metadata if isinstance(metadata, dict) else {})):
        for key in _EXPIRIES:
            if where.get(key) and (where is not body or key not in but):
                raise PolicyUnenforceable(
                    f"{place}{key}", "an expiry of this shape: from when it counts is not defined"
                )
