"""What the kernel learns from answers, against the reference: vectors and mutations of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import pytest

from aegis.errors import KernelError
from aegis.kernel.names_reference import Count, Ends, Watcher
from tests.support import dns
from tests.support.dns_vectors import DEEP, VECTORS, WWW
from tests.support.names_kernel import GRACE_S, NamesProbe, boot_s
from tests.support.names_mutants import MUTANTS, compiled
from tests.support.names_vectors import (
    FOUR,
    MOST_RUN,
    RESOLVERS,
    SIX,
    interest,
    prepare,
    raw,
    wrong_repeat,
    wrong_vectors,
)
from tests.support.packets import TCP, UDP
from tests.support.scale import scaled, seed

pytestmark = pytest.mark.require("root", "bpf")


@pytest.fixture
def probe() -> Iterator[NamesProbe]:
    with NamesProbe() as opened:
        prepare(opened)
        yield opened


@pytest.mark.parametrize("protocol", [UDP, TCP], ids=["udp", "tcp"])
@pytest.mark.parametrize("ends", [FOUR, SIX], ids=["v4", "v6"])
def test_every_vector_binds_what_it_teaches(probe: NamesProbe, ends: Ends, protocol: int) -> None:
    assert wrong_vectors(probe, dataclasses.replace(ends, protocol=protocol)) == []
    assert not wrong_repeat(probe)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    """Every vector is worth something: each of these readers is wrong about one."""
    try:
        with NamesProbe(data=compiled(name)) as planted:
            prepare(planted)
            found = any(
                wrong_vectors(planted, dataclasses.replace(ends, protocol=protocol))
                for ends in (FOUR, SIX)
                for protocol in (UDP, TCP)
            )
            assert found or wrong_repeat(planted)
    except KernelError:
        pytest.fail("the verifier refused it: no bug that could be shipped")


def mutated(random_: random.Random, message: bytes) -> bytes:
    """A message with a few bytes changed, cut, doubled or taken from elsewhere in it."""
    data = bytearray(message)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            break
        at = random_.randrange(len(data))
        kind = random_.randrange(8)
        if kind == 0:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[at] = random_.choice((0, 1, 4, 5, 0x0C, 0x1C, 0x3F, 0x40, 0x80, 0xC0, 0xFF))
        elif kind == 2:
            data[at : at + 2] = (0xC000 | random_.randrange(len(data) + 4)).to_bytes(2, "big")
        elif kind == 3:
            del data[at : at + random_.randrange(1, 8)]
        elif kind == 4:
            data[at:at] = data[at : at + random_.randrange(1, 40)]
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data[at:at] = random_.randbytes(random_.randrange(1, 6))
        elif len(data) > 7:
            data[random_.choice((5, 7))] = random_.choice((0, 1, 2, 3, 32, 64, 65, 255))
    return bytes(data)


def grown(random_: random.Random) -> tuple[str, int, bytes]:
    """A right answer with 0 to 3 aliases, 1 to 32 addresses, in any case, with and without compression."""
    kind = random_.choice((dns.A, dns.AAAA))
    name = random_.choice((WWW, f"n{random_.randrange(1000)}.{DEEP}"))
    name = "".join(random_.choice((part.lower(), part.upper())) for part in name)
    owner: str | bytes = dns.pointer(dns.HEADER)
    records = []
    for number in range(random_.randrange(4)):
        target = f"c{number}.cdn{random_.randrange(9)}.test"
        records.append(dns.alias(owner, target, ttl=random_.randrange(600)))
        owner = target.upper() if random_.randrange(2) else target
    for _ in range(random_.choice((1, 1, 2, 4, 8, 31, 32))):
        address = (
            f"198.51.{random_.randrange(256)}.{random_.randrange(256)}"
            if kind == dns.A
            else f"2001:db8::{random_.randrange(65536):x}"
        )
        records.append(dns.address_record(owner, address, ttl=random_.randrange(4000)))
        if not random_.randrange(6):
            records.append(dns.record("any.test", dns.TXT, random_.randbytes(5)))
    return name, kind, dns.answer(name, records, kind, behind=dns.EDNS if random_.randrange(2) else b"")


def compare(probe: NamesProbe, random_: random.Random) -> tuple[Count, int] | None:
    """One answer, mutated or not, read by both; what it counted as and how many it bound, None where they differ."""
    ends = random_.choice((FOUR, SIX))
    ends = dataclasses.replace(ends, protocol=random_.choice((UDP, UDP, TCP)))
    if random_.randrange(4):
        name, kind, message = grown(random_)
    else:
        vector = random_.choice(
            [each for each in VECTORS.values() if not each.others and len(each.message) < 1200]
        )
        name, kind, message = vector.name, vector.kind, vector.message
    if random_.randrange(5):
        message = mutated(random_, message)[:MOST_RUN]
    watcher = Watcher(RESOLVERS, interest)
    asked = dns.query(raw(name), kind)
    assert watcher.query(ends, asked) is Count.ASKED is probe.query(ends, asked)
    before = boot_s()
    if ends.protocol == TCP and not message:
        return Count.EMPTY, 0
    outcome, class_ = watcher.answer(ends, message)
    count = probe.answer(ends, message)
    slack = boot_s() - before
    bound = probe.bound()
    probe.forget()
    least: dict[bytes, int] = {}
    for address, ttl in outcome.addresses:
        least[address] = max(ttl, least.get(address, 0))
    expected = {address: {class_: ttl + before + GRACE_S} for address, ttl in least.items()}
    same = bound.keys() == expected.keys() and all(
        bound[address].keys() == {class_} and 0 <= bound[address][class_] - expected[address][class_] <= slack
        for address in expected
    )
    return (count, len(expected)) if count is outcome.count and same else None


def test_mutated_answers_teach_the_kernel_what_they_teach_the_reference(probe: NamesProbe) -> None:
    random_ = random.Random(seed())
    seen: dict[Count, int] = {}
    addresses = 0
    for number in range(scaled(3_000, 100_000)):
        state = random_.getstate()
        found = compare(probe, random_)
        assert found is not None, (seed(), number, state[1][-1])
        seen[found[0]] = seen.get(found[0], 0) + 1
        addresses += found[1]
    assert {Count.LEARNT, Count.MALFORMED, Count.FOREIGN, Count.MISMATCH, Count.TOO_MUCH} <= seen.keys()
    assert addresses > 1000
