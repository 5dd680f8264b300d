"""Whom and what name a policy is about: its subject, the entries of toFQDNs, and what the kernel must be able to do for them."""

from __future__ import annotations

import enum

import msgspec


class Feature(enum.StrEnum):
    """What a policy may ask of the kernel beside addresses and services."""

    SUBJECTS = "subjects"
    NAMES = "names"


class Subject(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """Whose packets a policy is about: who matches any pattern of each kind that is given. Sorted, none twice."""

    unit: tuple[str, ...] = ()
    cgroup: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    user: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """In words: `unit a.service or b.service, user www-data`."""
        kinds = (("unit", self.unit), ("cgroup", self.cgroup), ("exe", self.exe), ("user", self.user))
        return ", ".join(f"{kind} {' or '.join(patterns)}" for kind, patterns in kinds if patterns)


class NameSelector(msgspec.Struct, frozen=True, order=True):
    """One entry of toFQDNs, in lower case and without a final dot: matchName, or matchPattern.

    In a pattern `*` stands for any characters of one label, `**` at the front for one label or more, and `*` alone for
    every name.
    """

    text: str
    pattern: bool = False

    def matches(self, name: str) -> bool:
        """Whether it is about a name, given in any case, with or without the final dot."""
        name = name.lower().removesuffix(".")
        if not self.pattern:
            return name == self.text
        if self.text == "*":
            return bool(name)
        wanted, labels = self.text.split("."), name.split(".")
        if wanted[0] == "**":
            wanted = wanted[1:]
            if len(labels) <= len(wanted):
                return False
            labels = labels[len(labels) - len(wanted) :]
        return len(labels) == len(wanted) and all(map(_label_matches, wanted, labels))


def _label_matches(wanted: str, label: str) -> bool:
    if "*" not in wanted:
        return label == wanted
    start, _, end = wanted.partition("*")
    return len(label) >= len(start) + len(end) and label.startswith(start) and label.endswith(end)
