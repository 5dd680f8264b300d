"""Bugs a compiler of policies could have, to be planted: the comparison with the reference must catch every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec

from aegis.kernel import policy_image
from aegis.model.policy import AddressBlock, PolicySet, RankedRule, Rule
from aegis.model.policy_reference import judge

Patch = tuple[object, str, Any]


def _ranked_by(key: Callable[..., Any]) -> Callable[[PolicySet], tuple[RankedRule, ...]]:
    """`PolicySet.ranked` with another order."""

    def ranked(policies: PolicySet) -> tuple[RankedRule, ...]:
        rules = [
            (key(policy, rule, place), RankedRule(policy=policy, rule=rule))
            for policy in policies
            for place, rule in enumerate(policy.rules)
        ]
        return tuple(each for _, each in sorted(rules, key=lambda pair: pair[0]))

    return ranked


def _late_interval(rules: Any, family: int, classes: Any) -> list[tuple[int, int]]:
    top = (1 << (32 if family == 4 else 128)) - 1
    return [(min(start + bool(start), top), number) for start, number in _flatten(rules, family, classes)]


def _last_address_lost(rules: Any, family: int, classes: Any) -> list[tuple[int, int]]:
    top = (1 << (32 if family == 4 else 128)) - 1
    return [each for each in _flatten(rules, family, classes) if each[0] != top]


def _no_low_half(rules: Any, family: int, classes: Any) -> list[tuple[int, int]]:
    found = _flatten(rules, family, classes)
    if family == 4:
        return found
    halves: dict[int, int] = {}
    for start, number in found:
        halves.setdefault(start >> 64 << 64, number)
    return sorted(halves.items())


def _no_exceptions(blocks: tuple[AddressBlock, ...], family: int) -> list[tuple[int, int]]:
    return _networks(tuple(AddressBlock(cidr=block.cidr) for block in blocks), family)


def _exclusive_end(rule: Rule, family: int) -> list[tuple[int, int]]:
    ports = tuple(
        msgspec.structs.replace(each, last=each.last - 1)
        if each.first is not None and each.last is not None and each.last > each.first
        else each
        for each in rule.ports
    )
    return _services(msgspec.structs.replace(rule, ports=ports), family)


def _fragments_for_all(rule: Rule, family: int) -> list[tuple[int, int]]:
    found = _services(rule, family)
    denied = _services(msgspec.structs.replace(rule, deny=True), family)
    return found + [each for each in denied if each[0] & policy_image.FRAGMENT_BIT]


def _no_fragments(rule: Rule, family: int) -> list[tuple[int, int]]:
    return _services(msgspec.structs.replace(rule, deny=False), family)


def _no_family(rule: Rule, family: int) -> list[tuple[int, int]]:
    return _services(rule, 4) + _services(rule, 6)


def _nothing_above(*arguments: Any) -> Any:
    made = _class_in(*arguments)
    made.above = made.above_enforced = policy_image.NONE
    return made


def _high_ranks_lost_above(*arguments: Any) -> Any:
    """Shows only where prefixes nest and a wide one has a rule of rank 256 or more."""
    made = _class_in(*arguments)
    made.above = made.above if made.above < 512 else policy_image.NONE
    made.above_enforced = made.above_enforced if made.above_enforced < 512 else policy_image.NONE
    return made


def _last_wins(points: Any, spans: list[Any], rules: Any) -> list[int]:
    return _paint(points, spans[::-1], rules)


def _observers_enforce(points: Any, spans: list[Any], rules: Any) -> list[int]:
    """Paints the enforced layer with every rule: it is the second of two calls with the same points."""
    if _observers_enforce.before[0] is points:  # type: ignore[attr-defined]
        spans = _observers_enforce.before[1]  # type: ignore[attr-defined]
    _observers_enforce.before = (points, spans)  # type: ignore[attr-defined]
    return _paint(points, spans, rules)


_observers_enforce.before = (None, [])  # type: ignore[attr-defined]
_flatten, _networks, _services = policy_image._flatten, policy_image.networks, policy_image.services
_class_in, _paint = policy_image._class_in, policy_image._paint

MUTANTS: dict[str, Patch] = {
    "interval ends one late": (policy_image, "_flatten", _late_interval),
    "interval at the last address lost": (policy_image, "_flatten", _last_address_lost),
    "except ignored": (policy_image, "networks", _no_exceptions),
    "priority reversed": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (-policy.priority, not rule.deny, policy.name, place)),
    ),
    "allow before deny": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (policy.priority, rule.deny, policy.name, place)),
    ),
    "names ignored in ties": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (policy.priority, not rule.deny, place, policy.name)),
    ),
    "walk stops at the first class": (policy_image, "_class_in", _nothing_above),
    "choices of wider prefixes cut at 512": (policy_image, "_class_in", _high_ranks_lost_above),
    "endPort exclusive": (policy_image, "services", _exclusive_end),
    "lower half of IPv6 ignored": (policy_image, "_flatten", _no_low_half),
    "ANY without SCTP": (policy_image, "ANY_WITH_PORTS", (6, 17)),
    "fragments allowed without all ports": (policy_image, "services", _fragments_for_all),
    "fragments escape a denial": (policy_image, "services", _no_fragments),
    "ICMP types of the other family": (policy_image, "services", _no_family),
    "last match decides": (policy_image, "_paint", _last_wins),
    "observing rules enforce": (policy_image, "_paint", _observers_enforce),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The compiler with this bug."""
    target, attribute, bug = MUTANTS[name]
    with mock.patch.object(target, attribute, bug):
        yield


def expected(policies: PolicySet, packets: list[Any]) -> list[tuple[Any, ...]]:
    """What the reference says of each packet, comparable with `found`."""
    outcomes = [judge(policies, packet) for packet in packets]
    return [
        (
            each.verdict,
            (each.enforced.policy, each.enforced.rule) if each.enforced else None,
            (each.any.policy, each.any.rule) if each.any else None,
        )
        for each in outcomes
    ]


def found(rules: tuple[RankedRule, ...], judgements: list[Any]) -> list[tuple[Any, ...]]:
    """What an image or the kernel says, by the same names."""

    def name(rank: int | None) -> tuple[str, str] | None:
        return None if rank is None else (rules[rank].policy.name, rules[rank].rule.path)

    return [(each.verdict, name(each.enforced), name(each.any)) for each in judgements]
