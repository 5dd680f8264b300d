"""What reading DNS costs a packet: the medians of runs by BPF_PROG_TEST_RUN, above an empty program."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest

from aegis.kernel.names_reference import Ends
from tests.support import dns
from tests.support.dns_vectors import DEEP, WWW
from tests.support.names_kernel import PASSED, NamesProbe, packet
from tests.support.packets import UDP

pytestmark = pytest.mark.require("root", "bpf")

ENDS = Ends(client=dns.mapped("10.77.0.1"), server=dns.mapped("10.77.0.2"), port=40000, protocol=UDP)
MOST_NS = 1_500  # of an answer of four addresses, which few answers exceed
_OWNER = dns.pointer(dns.HEADER)
ANSWERS = {
    "1 A": [dns.address_record(_OWNER, "192.0.2.1")],
    "4 A": [dns.address_record(_OWNER, f"192.0.2.{number}") for number in range(1, 5)],
    "2 CNAME, 2 A": [
        dns.alias(_OWNER, "one.cdn.test"),
        dns.alias("one.cdn.test", "two.cdn.test"),
        *[dns.address_record("two.cdn.test", f"192.0.2.{number}") for number in range(1, 3)],
    ],
    "32 A": [dns.address_record(_OWNER, f"192.0.2.{number}") for number in range(1, 33)],
}


@pytest.fixture
def probe() -> Iterator[NamesProbe]:
    with NamesProbe() as opened:
        opened.names.set_resolvers([ENDS.server])
        opened.watch(WWW, f"**.{DEEP}")
        yield opened


def cost(probe: NamesProbe, program: str, data: bytes) -> float:
    """Nanoseconds of one run: the median of several, since others share the machine."""
    runs = [probe.object.program(program).run(data, repeat=2_000) for _ in range(15)]
    assert {run.retval for run in runs} == {PASSED}
    return statistics.median(run.duration_ns for run in runs)


def test_what_an_answer_costs(probe: NamesProbe) -> None:
    found = {}
    for name, records in ANSWERS.items():
        data = packet(ENDS, dns.answer(WWW, records, behind=dns.EDNS), answers=True)
        probe.run("probe_names_query", packet(ENDS, dns.query(WWW), answers=False))
        ((key, value),) = probe.object.map("aegis_name_questions").items_batch()
        probe.object.map("probe_awaited").update(bytes(4), key + value)
        before = probe.names.counts()["learnt"]
        found[name] = cost(probe, "probe_names_again", data) - cost(probe, "probe_names_await", data)
        assert probe.names.counts()["learnt"] - before == 15 * 2_000
    plain = packet(ENDS, dns.answer("other.test", ANSWERS["1 A"], number=8), answers=True)
    nothing = cost(probe, "probe_names_nothing", plain)
    found["not awaited"] = cost(probe, "probe_names_answer", plain) - nothing
    asked = {"of interest": dns.query(WWW), "not of interest": dns.query("www.other.test")}
    for name, message in asked.items():
        found[f"query {name}"] = (
            cost(probe, "probe_names_query", packet(ENDS, message, answers=False)) - nothing
        )
    print({name: round(value) for name, value in found.items()})
    assert max(found[name] for name in found if name != "32 A") <= MOST_NS
