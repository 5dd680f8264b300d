"""The table of addresses, by the orders of user space and by answers: renewal, overflow, harvest, classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi, names_classes
from aegis.kernel.names import GRACE_S, IDLE_S, Names
from aegis.kernel.names_reference import AWAITED_S, Count, Ends
from tests.support import dns
from tests.support.names_kernel import HELD_BACK, NamesProbe, boot_s, packet, selector
from tests.support.packets import UDP

pytestmark = pytest.mark.require("root", "bpf")

ENDS = Ends(client=dns.mapped("10.77.0.1"), server=dns.mapped("10.77.0.2"), port=40000, protocol=UDP)
ONE = dns.mapped("192.0.2.1")
OWNER = dns.pointer(dns.HEADER)


@pytest.fixture
def probe() -> Iterator[NamesProbe]:
    with NamesProbe(addresses=16) as opened:
        opened.names.set_resolvers([ENDS.server])
        yield opened


def learn(probe: NamesProbe, name: str, *addresses: str, ttl: int = 300) -> Count:
    assert probe.query(ENDS, dns.query(name)) is Count.ASKED
    return probe.answer(
        ENDS, dns.answer(name, [dns.address_record(OWNER, address, ttl=ttl) for address in addresses])
    )


def test_an_answer_is_not_awaited_for_ever(probe: NamesProbe) -> None:
    probe.watch("a.test")
    answer = dns.answer("a.test", [dns.address_record(OWNER, "192.0.2.1")])
    questions = probe.object.map("aegis_name_questions")
    for until, count in ((boot_s(), Count.UNSOLICITED), (boot_s() + 3, Count.LEARNT)):
        assert probe.query(ENDS, dns.query("a.test")) is Count.ASKED
        ((key, value),) = questions.items_batch()
        given = abi.unpack("aegis_name_question", value).until
        assert AWAITED_S - 1 <= given - boot_s() <= AWAITED_S
        questions.update(key, value[:20] + until.to_bytes(4, "little"))
        assert probe.answer(ENDS, answer) is count
    assert ONE in probe.bound()


def test_an_address_stands_for_four_classes_and_no_more(probe: NamesProbe) -> None:
    names = [f"{letter}.test" for letter in "abcde"]
    classes = probe.watch(*names)
    for name in names:
        learn(probe, name, "192.0.2.1")
    assert set(probe.bound()[ONE]) == {classes[selector(name)] for name in names[:4]}
    assert (probe.names.counts()["slots_full"], probe.names.counts()["bound"]) == (1, 4)


def test_a_slot_that_is_over_is_taken(probe: NamesProbe) -> None:
    classes = probe.watch(*[f"{letter}.test" for letter in "abcde"])
    now = boot_s()
    for number in range(1, 5):
        assert probe.names.bind(ONE, number, 0, now - GRACE_S - 100 * (number == 3)) is None
    learn(probe, "e.test", "192.0.2.1")
    assert classes[selector("e.test")] in probe.bound()[ONE]
    assert probe.names.counts()["slots_full"] == 0


def test_a_renewal_only_lengthens(probe: NamesProbe) -> None:
    (number,) = probe.watch("a.test").values()
    learn(probe, "a.test", "192.0.2.1", ttl=1000)
    first = probe.bound()[ONE][number]
    learn(probe, "a.test", "192.0.2.1", ttl=10)
    assert probe.bound()[ONE] == {number: first}
    learn(probe, "a.test", "192.0.2.1", ttl=3000)
    assert probe.bound()[ONE][number] >= first + 2000


def test_a_full_table_is_told(probe: NamesProbe) -> None:
    probe.watch("a.test")
    for number in range(24):
        learn(probe, "a.test", f"192.0.2.{number}")
    counts = probe.names.counts()
    assert counts["bound"] + counts["table_full"] == 24
    assert counts["bound"] >= 16  # a table of 16 has a few more for each CPU
    assert len(probe.bound()) == counts["bound"]


def test_harvest_takes_out_what_is_long_over(probe: NamesProbe) -> None:
    now = boot_s()
    probe.names.bind(ONE, 1, 100, now)
    probe.names.bind(dns.mapped("192.0.2.2"), 1, 0, now - IDLE_S - GRACE_S - 5)
    probe.names.bind(dns.mapped("192.0.2.3"), 1, 0, now - GRACE_S - 5)
    done = probe.names.harvest(now)
    assert (done.addresses, done.removed) == (3, 1)
    assert set(probe.bound()) == {ONE, dns.mapped("192.0.2.3")}


def test_harvest_takes_out_at_once_what_is_over_while_the_table_is_nearly_full(probe: NamesProbe) -> None:
    now = boot_s()
    for number in range(14):
        probe.names.bind(dns.mapped(f"192.0.2.{number}"), 1, 0, now - GRACE_S - 5 + 50 * (number == 7))
    assert probe.names.harvest(now).removed == 13
    assert set(probe.bound()) == {dns.mapped("192.0.2.7")}


def test_an_answer_that_meets_an_entry_being_deleted_comes_again(probe: NamesProbe) -> None:
    """Between mark and deletion nothing may be bound in the entry: the answer is dropped and the client asks again."""
    probe.watch("a.test")
    now = boot_s()
    probe.names.bind(ONE, 1, 0, now - IDLE_S - GRACE_S - 5)
    assert probe.names._order("MARK", now=now, until=now).changed == 1
    probe.query(ENDS, dns.query("a.test"))
    answer = packet(ENDS, dns.answer("a.test", [dns.address_record(OWNER, "192.0.2.1")]), answers=True)
    assert probe.run("probe_names_answer", answer) == HELD_BACK
    assert probe.names.counts()["held_back"] == 1
    assert probe.names._order("REAP", now=now).changed == 1
    assert learn(probe, "a.test", "192.0.2.1") is Count.LEARNT
    assert ONE in probe.bound()


def test_what_an_agent_marked_and_did_not_delete_goes_with_the_next_harvest(probe: NamesProbe) -> None:
    now = boot_s()
    probe.names.bind(ONE, 1, 0, now - IDLE_S - GRACE_S - 5)
    probe.names._order("MARK", now=now, until=now)
    assert probe.names.harvest(now).removed == 1
    assert probe.bound() == {}


def test_what_open_flows_use_is_kept(probe: NamesProbe) -> None:
    now = boot_s()
    probe.names.bind(ONE, 1, 0, now)
    probe.names.bind(ONE, 2, 1000, now)
    probe.names.bind(dns.mapped("192.0.2.2"), 3, 0, now - GRACE_S - 5)
    assert probe.names.keep([ONE, dns.mapped("192.0.2.2"), dns.mapped("192.0.2.9")], now + 500, now) == 1
    assert probe.bound()[ONE] == {1: now + 500, 2: now + 1000 + GRACE_S}
    assert probe.bound()[dns.mapped("192.0.2.2")] == {3: now - 5}


def test_classes_keep_their_numbers(probe: NamesProbe) -> None:
    """Over other policies and another agent: the numbers are in the kernel's tables."""
    first = probe.watch("a.test", "*.b.test")
    probe.watch("c.test", "a.test")
    with_another = Names.of(probe.object)
    again = with_another.plan([selector("*.b.test"), selector("a.test"), selector("d.test")])
    with_another.close()
    assert again.classes[1] == first[selector("*.b.test")]
    assert again.classes[2] == first[selector("a.test")]
    assert again.classes[4] not in {*first.values(), 0}
    assert again.table[again.classes[4] - 1] == (2,)
    assert len(set(again.classes.values())) == 3


def test_a_number_is_given_anew_only_when_nothing_refers_to_it(
    probe: NamesProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_classes, "MOST", 4)
    old = probe.watch("a.test", "b.test", "c.test", "d.test")
    learn(probe, "a.test", "192.0.2.1")
    probe.query(ENDS, dns.query("b.test"))
    with pytest.raises(PolicyUnenforceable, match="more than 4 kinds"):
        probe.watch("e.test")  # the automaton in the slot still refers to all
    probe.names.clear(0)
    fresh = probe.watch("e.test", "f.test")
    assert set(fresh.values()) == {old[selector("c.test")], old[selector("d.test")]}
    with pytest.raises(PolicyUnenforceable):
        probe.names.plan([selector("g.test")])


def test_resolvers_are_replaced(probe: NamesProbe) -> None:
    other = dns.mapped("192.0.2.53")
    probe.watch("a.test")
    probe.names.set_resolvers([other])
    assert probe.names.resolvers() == {other}
    assert probe.query(ENDS, dns.query("a.test")) is Count.ASKED_ELSEWHERE
    assert probe.query(dataclasses.replace(ENDS, server=other), dns.query("a.test")) is Count.ASKED


def test_an_address_goes_on_standing_for_what_two_policies_have_in_common(probe: NamesProbe) -> None:
    both = [selector("*.example.com"), selector("a.example.com")]
    first = probe.names.plan(both)
    probe.names.put(0, first)
    learn(probe, "a.example.com", "192.0.2.1")
    ((number, _),) = probe.bound()[ONE].items()
    assert first.table[number - 1] == (0, 1)
    assert probe.names.plan(both[:1]).table[number - 1] == (0,)
    assert probe.names.plan([selector("other.test"), both[1]]).table[number - 1] == (1,)
    assert (
        len(probe.names.plan([selector("third.test")]).table) < number
        or not probe.names.plan([selector("third.test")]).table[number - 1]
    )
