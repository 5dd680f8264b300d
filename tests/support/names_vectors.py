"""Puts the vectors to the kernel's reader and says which of them it reads otherwise than they tell."""

from __future__ import annotations

import dataclasses

from aegis.kernel.names_reference import Count, Ends
from tests.support import dns
from tests.support.dns_vectors import DEEP, VECTORS, WWW, Vector
from tests.support.names_kernel import GRACE_S, NamesProbe, boot_s, selector
from tests.support.packets import TCP, UDP

FOUR = Ends(client=dns.mapped("10.77.0.1"), server=dns.mapped("10.77.0.2"), port=40000, protocol=UDP)
SIX = Ends(client=dns.mapped("fd77::1"), server=dns.mapped("fd77::2"), port=40000, protocol=UDP)
RESOLVERS = (FOUR.server, dns.mapped("10.77.0.4"), SIX.server)
CLASSES = {WWW: 1, DEEP: 2}  # the numbers a new table gives
MOST_RUN = 3_400  # bytes BPF_PROG_TEST_RUN takes; longer messages are for test_names_live.py
Bound = dict[bytes, dict[int, int]]


def interest(name: tuple[bytes, ...]) -> int:
    """The class of a name as the kernel is told it."""
    text = b".".join(name)
    return CLASSES[WWW] if text == WWW.encode() else CLASSES[DEEP] if text.endswith(b".deep.test") else 0


def labels(name: str) -> tuple[bytes, ...]:
    """A name of one byte a character."""
    return tuple(part.encode("latin-1") for part in name.split("."))


def raw(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part for part in labels(name)) + b"\0"


def prepare(probe: NamesProbe) -> None:
    """Make the probe look for what the vectors are about."""
    probe.names.set_resolvers(RESOLVERS)
    below = f"**.{DEEP}"
    assert probe.watch(WWW, below) == {selector(WWW): CLASSES[WWW], selector(below): CLASSES[DEEP]}


def told(probe: NamesProbe, ends: Ends, vector: Vector) -> tuple[Count, Bound]:
    """Ask and be answered; what it counted as and what is bound then, with the TTL instead of the instant."""
    asked = probe.query(ends, dns.query(raw(vector.name), vector.kind))
    if asked is not Count.ASKED:
        return asked, {}
    before = boot_s()
    count = probe.answer(dataclasses.replace(ends, **vector.others), vector.message)  # type: ignore[arg-type]
    bound = probe.bound()
    probe.forget()
    return count, {
        address: {class_: until - before - GRACE_S for class_, until in slots.items()}
        for address, slots in bound.items()
    }


def _close(found: Bound, expected: Bound) -> bool:
    """Equal but for a second that went by meanwhile."""
    return found.keys() == expected.keys() and all(
        found[address].keys() == expected[address].keys()
        and all(0 <= found[address][one] - expected[address][one] <= 1 for one in expected[address])
        for address in expected
    )


def wrong_vectors(probe: NamesProbe, ends: Ends) -> list[tuple[str, Count, Count, Bound]]:
    """Name, what the kernel counted it as, what it is, and what was bound."""
    wrong = []
    for name, vector in VECTORS.items():
        elsewhere = vector.others.keys()
        if (ends.client == SIX.client and elsewhere & {"client", "server"}) or len(vector.message) > MOST_RUN:
            continue
        if ends.protocol == TCP and ("protocol" in elsewhere or name == "empty"):
            continue
        count, bound = told(probe, ends, vector)
        expected = {
            dns.mapped(address): {interest(labels(vector.name)): ttl} for address, ttl in vector.teaches
        }
        if count is not vector.count or not _close(bound, expected):
            wrong.append((name, count, vector.count, bound))
    return wrong


def wrong_repeat(probe: NamesProbe) -> bool:
    """Whether an answer is believed a second time, or one of a server that nobody named."""
    vector = VECTORS["one address"]
    told(probe, FOUR, vector)
    again = probe.answer(FOUR, vector.message)
    other = dataclasses.replace(FOUR, server=dns.mapped("10.77.0.3"))
    asked = probe.query(other, dns.query(WWW))
    probe.forget()
    return again is not Count.UNSOLICITED or asked is not Count.ASKED_ELSEWHERE
