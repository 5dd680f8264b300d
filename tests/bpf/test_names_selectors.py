"""Which names the kernel takes an interest in, and as what: against the definition of the selectors."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from aegis.kernel import abi
from aegis.kernel.names_reference import Count, Ends
from aegis.model.policy_selectors import NameSelector
from tests.support import dns
from tests.support.names_kernel import NamesProbe, selector
from tests.support.packets import UDP
from tests.support.scale import scaled, seed

pytestmark = pytest.mark.require("root", "bpf")

ENDS = Ends(client=dns.mapped("10.77.0.1"), server=dns.mapped("10.77.0.2"), port=40000, protocol=UDP)
LABELS = ("a", "b", "ab", "aa", "aab", "api", "api-7", "x" * 63, "example", "com", "test")
WILD = ("*", "a*", "*b", "a*b", "api-*", "*-7", "aa*", "*aa", "x*", "*" + "x" * 60)


@pytest.fixture
def probe() -> Iterator[NamesProbe]:
    with NamesProbe() as opened:
        opened.names.set_resolvers([ENDS.server])
        yield opened


def class_of(probe: NamesProbe, name: str) -> int:
    """The class under which the kernel awaits the answer to a question about a name; 0: it does not."""
    query = dns.query("".join(random.choice((each, each.upper())) for each in name))
    counted = probe.query(ENDS, query)
    rows = list(probe.object.map("aegis_name_questions").items_batch())
    for key, _ in rows:
        probe.object.map("aegis_name_questions").delete(key)
    assert (counted is Count.ASKED) == bool(rows)
    return abi.unpack("aegis_name_question", rows[0][1]).classes[0] if rows else 0


def some_selector(rng: random.Random) -> NameSelector:
    labels = [rng.choice(LABELS) for _ in range(rng.randrange(1, 5))]
    kind = rng.randrange(6)
    if kind == 0:
        labels[0] = "*"
    elif kind == 1:
        labels.insert(0, "**")
    elif kind == 2:
        labels[rng.randrange(len(labels))] = rng.choice(WILD)
    elif kind == 3 and not rng.randrange(20):
        labels = ["*"]
    return NameSelector(".".join(labels), "*" in ".".join(labels))


def some_name(rng: random.Random, selectors: list[NameSelector]) -> str:
    """A name near a selector, or any."""
    if not rng.randrange(3):
        return ".".join(rng.choice(LABELS) for _ in range(rng.randrange(1, 6)))
    labels = rng.choice(selectors).text.replace("**", rng.choice(LABELS)).split(".")
    labels = [each.replace("*", rng.choice(("", "a", "zz", "b-7"))) or "q" for each in labels]
    change = rng.randrange(5)
    if change == 0:
        labels.insert(0, rng.choice(LABELS))
    elif change == 1 and len(labels) > 1:
        del labels[0]
    elif change == 2:
        labels[rng.randrange(len(labels))] = rng.choice(LABELS)
    return ".".join(each[:63] for each in labels)[:250].strip(".")


def test_the_kernel_matches_as_the_language_says(probe: NamesProbe) -> None:
    rng = random.Random(seed())
    matched = 0
    for _ in range(scaled(12, 300)):
        selectors = sorted({some_selector(rng) for _ in range(rng.choice((1, 3, 8, 20)))})
        plan = probe.names.plan(selectors)
        probe.names.put(0, plan)
        for _ in range(120):
            name = some_name(rng, selectors)
            expected = tuple(place for place, each in enumerate(selectors) if each.matches(name))
            class_ = class_of(probe, name)
            found = plan.table[class_ - 1] if class_ else ()
            assert found == expected, (seed(), name, [selectors[each].text for each in (*expected, *found)])
            matched += bool(expected)
    assert matched > 200


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("www.example.com", ["www.example.com"], ["example.com", "a.www.example.com", "www.example.com.org", "w.example.com"]),
        ("*.example.com", ["a.example.com"], ["example.com", "a.b.example.com", "notexample.com"]),
        ("**.example.com", ["a.example.com", "a.b.c.example.com"], ["example.com", "notexample.com"]),
        ("*", ["com", "a.b.c.d"], []),
        ("api-*.example.com", ["api-.example.com", "api-7.example.com"], ["api.example.com", "xapi-7.example.com"]),
        ("*-7.example.com", ["-7.example.com", "api-7.example.com"], ["7.example.com", "api-77.example.com"]),
        ("a*b.test", ["ab.test", "aab.test", "axxb.test"], ["a.test", "b.test", "abc.test"]),
        ("aa*aa.test", ["aaaa.test", "aaxaa.test"], ["aaa.test", "aa.test"]),
    ],
)  # fmt: skip
def test_selectors(probe: NamesProbe, text: str, yes: list[str], no: list[str]) -> None:
    (number,) = probe.watch(text).values()
    assert [class_of(probe, name) for name in yes] == [number] * len(yes)
    assert [class_of(probe, name) for name in no] == [0] * len(no)


def test_a_label_that_several_selectors_match(probe: NamesProbe) -> None:
    texts = ["*.test", "*b.test", "a*.test", "a*b.test"]
    plan = probe.names.plan([selector(text) for text in texts])
    probe.names.put(0, plan)
    found = {name: plan.table[class_of(probe, f"{name}.test") - 1] for name in ("x", "ax", "xb", "axb", "ab")}
    assert found == {"x": (0,), "ax": (0, 2), "xb": (0, 1), "axb": (0, 1, 2, 3), "ab": (0, 1, 2, 3)}


def test_without_selectors_nothing_is_looked_at(probe: NamesProbe) -> None:
    probe.watch("a.test")
    probe.watch()
    from tests.support.names_kernel import PASSED, packet

    assert probe.run("probe_names_query", packet(ENDS, dns.query("a.test"), answers=False)) == PASSED
    assert probe.counted() == {}


def test_what_is_learnt_in_a_trial_holds_for_the_policy_before_it(probe: NamesProbe) -> None:
    """The trial knows another selector, so the name has another class for it; both are bound."""
    one, two = "*.example.com", "a.example.com"
    before = probe.names.plan([selector(one)])
    trial = probe.names.plan([selector(one), selector(two)])
    probe.names.put(3, before)
    probe.names.put(0, trial, beside=3)
    probe.query(ENDS, dns.query(two))
    probe.answer(ENDS, dns.answer(two, [dns.address_record(dns.pointer(12), "192.0.2.1")]))
    ((_, slots),) = probe.bound().items()
    assert set(slots) == {before.classes[1], trial.classes[3]}
    probe.names.settle(0)
    probe.query(ENDS, dns.query(two))
    probe.answer(ENDS, dns.answer(two, [dns.address_record(dns.pointer(12), "192.0.2.2")]))
    assert set(probe.bound()[dns.mapped("192.0.2.2")]) == {trial.classes[3]}


def test_a_slot_is_cleared_whole(probe: NamesProbe) -> None:
    probe.watch("a.test", "*.b.test", "x*.c.test", slot=1)
    probe.watch("a.test", slot=2)
    probe.names.clear(1)
    sizes = {
        name: len(list(probe.object.map(name).items_batch()))
        for name in ("aegis_name_edges", "aegis_name_states", "aegis_name_branches")
    }
    assert sizes == {"aegis_name_edges": 2, "aegis_name_states": 4, "aegis_name_branches": 0}
