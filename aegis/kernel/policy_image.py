"""Compiles a set of policies into the block of bytes that the kernel reads (`bpf/include/aegis/policy.h`).

What an image holds is decided here (parts, instants, limits); how it is laid out, in `aegis._native.policy_compiler`.
Pure, total and deterministic: the same set gives the same bytes, whatever the order of its policies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from aegis._native.policy_compiler import Compiler, TooDeep, TooMany
from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.constants import IMAGE_RULES
from aegis.model.net import Direction
from aegis.model.policy import (
    MAX_EXPIRIES,
    MAX_RULES,
    MAX_SUBJECTS,
    Policy,
    PolicySet,
    Prefix,
    RankedRule,
)
from aegis.model.policy_selectors import Feature, NameSelector, Subject

_IMAGE: Final = abi.enum("aegis_image")
NONE: Final = _IMAGE["AEGIS_CHOICE_NONE"]
CHOICE_BITS: Final = _IMAGE["AEGIS_CHOICE_BITS"]
DEPTH: Final = _IMAGE["AEGIS_IMAGE_DEPTH"]
PARTS: Final = _IMAGE["AEGIS_IMAGE_PARTS"]
NAME_CLASSES: Final = _IMAGE["AEGIS_IMAGE_NAME_CLASSES"]
DEADLINE_SHIFT: Final = abi.enum("aegis_image_word")["AEGIS_WORD_DEADLINE_SHIFT"]
DIRECTIONS = {Direction.EGRESS: abi.EGRESS, Direction.INGRESS: abi.INGRESS}
EVERY_FEATURE: Final = frozenset(Feature)

# The service key: direction | fragment | protocol | port.
DIRECTION_SHIFT, FRAGMENT_BIT, PROTOCOL_SHIFT = 25, 1 << 24, 16

NameClasses = Sequence[tuple[int, ...]]
Part = tuple[int, int]  # subject bit, number of the instant at which it ends (from 1; 0: never)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledImage:
    """`data` as the kernel reads it, its SHA-256 in hex, and the rules by rank.

    Bit n + 1 of a subject mask is `subjects[n]`; name class k + 1 holds the names that `name_classes[k]` match, by index
    into `names`.
    """

    data: bytes
    digest: str
    rules: tuple[RankedRule, ...]
    subjects: tuple[Subject, ...] = ()
    names: tuple[NameSelector, ...] = ()
    name_classes: tuple[tuple[int, ...], ...] = ()

    @property
    def enforced(self) -> int:
        """Rules of policies in mode enforce."""
        return sum(each.enforced for each in self.rules)

    @property
    def room(self) -> int:
        """The size of images, a key of IMAGE_RULES, that the programs must have been loaded with at least."""
        return next(
            size for size, ranks in IMAGE_RULES.items() if size >= len(self.data) and ranks >= len(self.rules)
        )


def compile_policies(
    policies: PolicySet,
    *,
    name_classes: NameClasses = (),
    boot_epoch_ms: int = 0,
    features: Collection[Feature] = EVERY_FEATURE,
) -> CompiledImage:
    """Compile a set. Raises PolicyUnenforceable where it asks for more than an image or the kernel can do.

    `name_classes`: ascending indexes into `PolicySet.names` that have names in common; a name rule matches by these only.
    `boot_epoch_ms`: the Unix time at which CLOCK_BOOTTIME was 0. `features`: what the kernel side is able to.
    """
    for policy in policies:
        _refuse_missing(policy, features)
    rules = policies.ranked()
    if len(rules) > MAX_RULES:
        reason = f"the policies of this host have {len(rules)} rules together, more than {MAX_RULES}"
        raise _unenforceable(rules[MAX_RULES], reason)
    subjects, names = policies.subjects(), policies.names()
    deadlines = sorted({each.expires_ms for each in policies if each.expires_ms is not None})
    parts = _parts(policies, subjects, deadlines)
    places = sorted({*parts.values(), (0, 0)})
    _refuse_excess(subjects, deadlines, places, name_classes)
    by_policy = {
        id(each): (places.index(parts[each.name]), each.mode.value == "enforce") for each in policies
    }
    numbers = {name: number for number, name in enumerate(names)}
    compiler = Compiler(len(places))
    try:
        for each in rules:
            part, enforced = by_policy[id(each.policy)]
            ingress = each.rule.direction is Direction.INGRESS
            if each.default:
                compiler.defaults(part, ingress, enforced)
            else:
                compiler.add(each.rule, part, ingress, enforced, numbers)
        data = compiler.image(
            [max(0, each - boot_epoch_ms) for each in deadlines],
            [bit | deadline << DEADLINE_SHIFT for bit, deadline in places],
            name_classes,
        )
    except TooDeep as error:
        rank, family, address, length = error.args
        reason = f"{Prefix(family, address, length).text} (policy {rules[rank].policy.name}) lies in {DEPTH} other prefixes"
        raise _unenforceable(rules[rank], f"{reason} that carry rules; at most {DEPTH} may nest") from error
    except TooMany as error:
        what, rank = error.args
        raise _unenforceable(rules[rank], f"the policies of this host make too many {what}") from error
    if len(data) > abi.IMAGE_LARGE:
        raise PolicyUnenforceable(
            "spec", f"the compiled policies need {len(data)} bytes, more than {abi.IMAGE_LARGE}"
        )
    return CompiledImage(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        rules=rules,
        subjects=subjects,
        names=names,
        name_classes=tuple(name_classes),
    )


def _parts(policies: PolicySet, subjects: tuple[Subject, ...], deadlines: list[int]) -> dict[str, Part]:
    """By a policy's name the part its rules are in."""
    bits: dict[Subject | None, int] = {each: number + 1 for number, each in enumerate(subjects)}
    instants: dict[int | None, int] = {each: number + 1 for number, each in enumerate(deadlines)}
    return {each.name: (bits.get(each.subject, 0), instants.get(each.expires_ms, 0)) for each in policies}


def _refuse_missing(policy: Policy, features: Collection[Feature]) -> None:
    """Refuse what the kernel side is not able to."""
    if policy.subject is not None and Feature.SUBJECTS not in features:
        raise PolicyUnenforceable(
            "spec.subject",
            "subjects are not supported here: a rule would apply to the whole host",
            line=policy.subject_line,
        )
    if Feature.NAMES not in features:
        for rule in policy.rules:
            if rule.names:
                raise PolicyUnenforceable(
                    f"spec.{rule.path}.toFQDNs",
                    "rules by domain name are not supported here: give the addresses as a CIDR set",
                    line=rule.line,
                )


def _refuse_excess(
    subjects: tuple[Subject, ...],
    deadlines: list[int],
    places: list[Part],
    name_classes: NameClasses,
) -> None:
    """Refuse more of anything than an image has room for."""
    for path, count, most, what in (
        ("spec.subject", len(subjects), MAX_SUBJECTS, "different subjects"),
        ("spec.expiresAt", len(deadlines), MAX_EXPIRIES, "different instants of expiry"),
        ("spec", len(places), PARTS, "different pairs of subject and expiry"),
        ("spec", len(name_classes), NAME_CLASSES, "different classes of names"),
    ):
        if count > most:
            raise PolicyUnenforceable(
                path, f"the policies of this host have {count} {what}, more than {most}"
            )


def _unenforceable(each: RankedRule, reason: str) -> PolicyUnenforceable:
    return PolicyUnenforceable(f"spec.{each.rule.path}", reason, line=each.rule.line)


def service_key(direction: Direction, protocol: int, port: int, *, fragment: bool) -> int:
    """The key of a packet's service."""
    key = DIRECTIONS[direction] << DIRECTION_SHIFT | protocol << PROTOCOL_SHIFT | port
    return key | FRAGMENT_BIT if fragment else key


def names_of(image: CompiledImage, known: Collection[str]) -> int:
    """The name classes of an address that is known by these names, as the kernel is told them: 16 bits each."""
    numbers = {classes: number + 1 for number, classes in enumerate(image.name_classes)}
    found = 0
    for place, name in enumerate(known):
        matching = tuple(number for number, each in enumerate(image.names) if each.matches(name))
        found |= numbers.get(matching, 0) << 16 * place
    return found
