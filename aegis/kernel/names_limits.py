"""What of names the kernel cannot see, said before somebody relies on it: lines of `aegis doctor`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from aegis.kernel.features import Feature
from aegis.kernel.names_resolvers import Resolvers

# Of what is learnt from answers, what no setting changes: name, what is not seen, its effect, what to do.
_UNSEEN: Final = (
    (
        "names_encrypted",
        "names that programs look up over HTTPS or TLS (DoH, DoT), and by QUIC, are not seen",
        "connections by such names are judged as to addresses without a name",
        "let programs use the host's resolver; a resolver may itself ask over TLS",
    ),
    (
        "names_local",
        "names from /etc/hosts, mDNS, LLMNR and caches of other services (nscd) are not seen",
        "connections by such names are judged as to addresses without a name",
        "give their addresses as a CIDR set",
    ),
    (
        "names_shared",
        "an address that several names share (a CDN, a proxy) stands for all of them",
        "who may reach one of the names may reach the others at that address",
        "",
    ),
    (
        "names_long",
        "answers in fragments, in several TCP segments, or longer than 4096 bytes are not read",
        "an address that only such an answer tells is judged as without a name",
        "",
    ),
)


def describe_names(
    resolvers: Resolvers,
    counts: Mapping[str, int],
    *,
    loopback: bool,
    unresolved: Mapping[str, str] | None = None,
) -> tuple[Feature, ...]:
    """The lines of a host with a policy that names names. `counts`: of `Names.counts`; `loopback`: whether the programs
    are at lo; `unresolved`: names without an address when the policy was committed, with the reason."""
    return (
        _resolvers(resolvers, loopback=loopback),
        _room(counts),
        *([_unresolved(unresolved)] if unresolved else []),
        *(
            Feature(
                name=name, state="degraded", source="by its nature", reason=reason, effect=effect, hint=hint
            )
            for name, reason, effect, hint in _UNSEEN
        ),
    )


def _resolvers(resolvers: Resolvers, *, loopback: bool) -> Feature:
    texts = [str(_readable(each)) for each in resolvers.addresses]
    reason, hint = "; ".join(resolvers.left_out), ""
    state = "degraded" if reason else "ok"
    if not texts:
        state, reason = "missing", reason or "no resolver is known"
        hint = "name one with policy.resolvers"
    elif resolvers.stub and not loopback:
        state = "degraded"
        reason = "a resolver is on this host and the loopback interface is not watched"
        hint = "add lo to the watched interfaces"
    return Feature(
        name="names",
        state=state,  # type: ignore[arg-type]
        source=", ".join(texts),
        reason=reason,
        effect="names in answers of other resolvers, or cached by one on this host, are not learnt",
        hint=hint,
    )


def _room(counts: Mapping[str, int]) -> Feature:
    lost = {name: counts.get(name, 0) for name in ("table_full", "slots_full")}
    words = []
    if lost["table_full"]:
        words.append(f"{lost['table_full']} addresses found no room")
    if lost["slots_full"]:
        words.append(f"{lost['slots_full']} times an address stood for four kinds of names already")
    return Feature(
        name="names_room",
        state="degraded" if words else "ok",
        source="counters",
        reason="; ".join(words),
        effect="such addresses are judged as without a name",
        hint="",
    )


def _unresolved(unresolved: Mapping[str, str]) -> Feature:
    shown = "; ".join(f"{name}: {why}" for name, why in sorted(unresolved.items())[:8])
    more = f"; and {len(unresolved) - 8} more" if len(unresolved) > 8 else ""
    return Feature(
        name="names_unresolved",
        state="degraded",
        source="looked up when the policy was committed",
        reason=shown + more,
        effect="they are learnt when a program asks for them next",
        hint="",
    )


def _readable(address: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.IPv6Address(address)
    return found.ipv4_mapped or found
