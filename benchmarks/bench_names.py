"""What reading DNS adds to a packet: runs by BPF_PROG_TEST_RUN above a program that only prepares the question.

An answer of four addresses is the row, which few answers exceed; the others are told in its note.
"""

from __future__ import annotations

from aegis.kernel.names_reference import Ends
from benchmarks.rows import Row, median
from tests.support import dns
from tests.support.dns_vectors import DEEP, WWW
from tests.support.names_kernel import PASSED, NamesProbe, packet
from tests.support.packets import UDP

ENDS = Ends(client=dns.mapped("10.77.0.1"), server=dns.mapped("10.77.0.2"), port=40000, protocol=UDP)
RUNS = 2_000
TURNS = 61
_OWNER = dns.pointer(dns.HEADER)
ANSWERS = {
    "4 A": [dns.address_record(_OWNER, f"192.0.2.{number}") for number in range(1, 5)],
    "1 A": [dns.address_record(_OWNER, "192.0.2.1")],
    "2 CNAME, 2 A": [
        dns.alias(_OWNER, "one.cdn.test"),
        dns.alias("one.cdn.test", "two.cdn.test"),
        *[dns.address_record("two.cdn.test", f"192.0.2.{number}") for number in range(1, 3)],
    ],
    "32 A": [dns.address_record(_OWNER, f"192.0.2.{number}") for number in range(1, 33)],
}


def run() -> list[Row]:
    with NamesProbe() as probe:
        probe.names.set_resolvers([ENDS.server])
        probe.watch(WWW, f"**.{DEEP}")
        answers = {name: _answer(probe, records) for name, records in ANSWERS.items()}
        plain = packet(ENDS, dns.answer("other.test", ANSWERS["1 A"], number=8), answers=True)
        not_awaited = _above(probe, "probe_names_answer", "probe_names_nothing", plain)
        asked = packet(ENDS, dns.query(WWW), answers=False)
        query = _above(probe, "probe_names_query", "probe_names_nothing", asked)
    others = ", ".join(f"{name} {median(found):.0f}" for name, found in answers.items() if name != "4 A")
    return [
        Row(
            name="name_answer",
            value=median(answers["4 A"]),
            unit="ns",
            samples=answers["4 A"],
            note=f"4 A records; {others}, not awaited {median(not_awaited):.0f}, question {median(query):.0f}",
        )
    ]


def _answer(probe: NamesProbe, records: list[bytes]) -> list[float]:
    """Nanoseconds of an awaited answer, each of which binds."""
    data = packet(ENDS, dns.answer(WWW, records, behind=dns.EDNS), answers=True)
    probe.run("probe_names_query", packet(ENDS, dns.query(WWW), answers=False))
    ((key, value),) = probe.object.map("aegis_name_questions").items_batch()
    probe.object.map("probe_awaited").update(bytes(4), key + value)
    before = probe.names.counts()["learnt"]
    found = _above(probe, "probe_names_again", "probe_names_await", data)
    assert probe.names.counts()["learnt"] - before == TURNS * RUNS
    return found


def _above(probe: NamesProbe, program: str, base: str, data: bytes) -> list[float]:
    """Nanoseconds of `program` above `base`, turn by turn."""
    found = []
    for _ in range(TURNS):
        below = probe.object.program(base).run(data, repeat=RUNS)
        run = probe.object.program(program).run(data, repeat=RUNS)
        assert run.retval == PASSED
        found.append(float(run.duration_ns - below.duration_ns))
    return found
