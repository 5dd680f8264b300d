"""Reads a policy document (`docs/policy.md`) into model values: strictly, naming path and line of each mistake."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import re
from collections.abc import Iterator

from aegis.errors import PolicyError, PolicyInvalid
from aegis.model.document import Items, Mapping, Node, Scalar, child, parse_tree
from aegis.model.net import Direction
from aegis.model.policy import DEFAULT_PRIORITY, MAX_PRIORITY, MAX_RULES, Mode, Policy, Rule
from aegis.model.policy_rules import RuleReader
from aegis.model.policy_selectors import Subject

API_VERSION = "aegis/v1"
KIND = "HostNetworkPolicy"
MAX_VERSION = (1 << 63) - 1
SHOWN_PROBLEMS = 8  # of one document in one message; all are found

# Where a rule stands -> the direction it is about and whether it denies.
SECTIONS: dict[str, tuple[Direction, bool]] = {
    "egress": (Direction.EGRESS, False),
    "ingress": (Direction.INGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
    "ingressDeny": (Direction.INGRESS, True),
}
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# Words of the language that cannot be enforced as written: refused with the reason, never ignored.
_NO_SELECTOR = "host selectors are not supported: a policy applies to the host that is given it"

# A component holds at most one '*'. No control characters, no spaces at an end: what looks alike must be alike.
_COMPONENT = (
    r"(?!\.{1,2}(?:/|$))[^\x00-\x20\x7f*/](?:[^\x00-\x1f\x7f*/]*\*)?[^\x00-\x1f\x7f*/]*|\*[^\x00-\x1f\x7f*/]*"
)
_PATH = re.compile(rf"(?:/(?:\*\*|{_COMPONENT}))+")
_SUBJECT_PATTERNS = {
    "unit": (
        re.compile(rf"(?=.*\.(?:service|scope|slice|socket|mount|swap)$)(?:{_COMPONENT})"),
        "the name of a unit with its type, such as ssh.service, with at most one '*'",
    ),
    "cgroup": (
        _PATH,
        "a path below the root of the cgroups such as /system.slice, with at most one '*' in a component, or '**' for any",
    ),
    "exe": (_PATH, "an absolute path, with at most one '*' in a component, or '**' for any"),
    "user": (
        re.compile(r"[0-9]{1,10}|(?=.{1,33}$)(?!.*\*.*\*)[A-Za-z_*][A-Za-z0-9_.-]*\*?[A-Za-z0-9_.-]*\$?"),
        "the name, with at most one '*', or the number of a user",
    ),
}
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
MAX_PATTERNS = 64  # of one kind in one subject
MAX_PATTERN_BYTES = 1024


def parse_document(data: bytes) -> Policy:
    """The policy in a YAML or JSON document.

    Raises PolicyInvalid (not the language) or PolicyUnenforceable (cannot be enforced exactly as written) for the first
    problem; its hint names the others.
    """
    policy, problems = examine(data)
    if policy is not None:
        return policy
    first, *others = problems
    if others:
        shown = "; ".join(str(each) for each in others[:SHOWN_PROBLEMS])
        more = len(others) - SHOWN_PROBLEMS
        first.hint = f"also: {shown}" + (f"; and {more} more" if more > 0 else "")
    raise first


def examine(data: bytes) -> tuple[Policy | None, tuple[PolicyError, ...]]:
    """The policy, or None and every problem found: first what is invalid, then what cannot be enforced."""
    with _uncollected():
        return _examined(data)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles: there are none in a tree or a policy, and at 100,000 rules it is three quarters of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _examined(data: bytes) -> tuple[Policy | None, tuple[PolicyError, ...]]:
    try:
        root = parse_tree(data)
    except PolicyInvalid as error:
        return None, (error,)
    reader = _Reader(data)
    policy = reader.policy(root)
    if reader.invalid or reader.unenforceable:
        return None, (*reader.invalid, *reader.unenforceable)
    assert policy is not None
    return policy, ()


class _Reader(RuleReader):
    """One reading of one document."""

    def policy(self, root: Node) -> Policy | None:
        known = ("apiVersion", "kind", "metadata", "spec")
        top = self.members(root, "", known, known)
        if top is None:
            return None
        if "apiVersion" in top:
            self.word(top["apiVersion"].value, "apiVersion", (API_VERSION,))
        if "kind" in top:
            self.word(top["kind"].value, "kind", (KIND,))
        name, version = self._metadata(top["metadata"].value) if "metadata" in top else (None, 1)
        if "spec" not in top:
            return None
        policy = self._spec(top["spec"].value, name or "", version)
        return None if self.invalid or self.unenforceable or name is None else policy

    def _metadata(self, node: Node) -> tuple[str | None, int]:
        members = self.members(node, "metadata", ("name", "version"), ("name",)) or {}
        name = None
        version: int | None = 1
        if "name" in members:
            name = self.text(members["name"].value, "metadata.name")
            if name is not None and not _NAME.fullmatch(name):
                reason = "must be 1 to 63 letters, digits, '.', '_' and '-', a letter or digit at both ends"
                self.bad("metadata.name", members["name"].line, reason)
        if "version" in members:
            version = self.number(members["version"].value, "metadata.version", 0, MAX_VERSION)
        return name, 1 if version is None else version

    def _spec(self, node: Node, name: str, version: int) -> Policy:
        known = ("mode", "priority", "subject", *SECTIONS, "enableDefaultDeny", "hostSelector", "expiresAt")
        members = self.members(node, "spec", known) or {}
        mode = Mode.OBSERVE
        priority: int | None = DEFAULT_PRIORITY
        if "mode" in members:
            mode = Mode(self.word(members["mode"].value, "spec.mode", tuple(Mode)) or mode)
        if "priority" in members:
            priority = self.number(members["priority"].value, "spec.priority", 0, MAX_PRIORITY)
        if "hostSelector" in members:
            self.cannot("spec.hostSelector", members["hostSelector"].line, _NO_SELECTOR)
        expires = self._instant(members["expiresAt"].value) if "expiresAt" in members else None
        subject = self._subject(members["subject"].value) if "subject" in members else None
        denied = members.get("enableDefaultDeny")
        default_deny = self._default_deny(denied.value) if denied else ()
        sections = [key for key in SECTIONS if key in members]
        if isinstance(node, Mapping) and not sections and not default_deny:
            self.bad("spec", node.line, f"has no rule: give at least one of {', '.join(SECTIONS)}")
        rules = [rule for key in sections for rule in self._section(key, members[key].value)]
        self._blocks_itself(rules)
        return Policy(
            name=name,
            version=version,
            mode=mode,
            priority=DEFAULT_PRIORITY if priority is None else priority,
            rules=tuple(rules),
            document=self.data,
            subject=subject,
            subject_line=members["subject"].line if "subject" in members else 0,
            default_deny=default_deny,
            default_line=denied.line if denied else 0,
            expires_ms=expires,
        )

    def _default_deny(self, node: Node) -> tuple[Direction, ...]:
        path = "spec.enableDefaultDeny"
        found = []
        for key, each in (self.members(node, path, ("egress", "ingress")) or {}).items():
            value = each.value.value if isinstance(each.value, Scalar) else None
            if not isinstance(value, bool):
                self.bad(child(path, key), each.value.line, f"must be true or false, not {each.value.noun}")
            elif value and key in SECTIONS:
                found.append(Direction(key))
        return tuple(each for each in (Direction.EGRESS, Direction.INGRESS) if each in found)

    def _instant(self, node: Node) -> int | None:
        """Milliseconds of Unix time."""
        text = self.text(node, "spec.expiresAt")
        if text is None:
            return None
        try:
            if not _INSTANT.fullmatch(text):
                raise ValueError(text)
            found = dt.datetime.fromisoformat(text.upper())
        except ValueError:
            self.bad(
                "spec.expiresAt",
                node.line,
                f"must be an instant such as 2027-01-01T00:00:00Z, not {node.noun}",
            )
            return None
        return int(found.timestamp() * 1000)

    def _subject(self, node: Node) -> Subject | None:
        path = "spec.subject"
        members = self.members(node, path, tuple(_SUBJECT_PATTERNS))
        if members is None:
            return None
        if not members:
            self.bad(path, node.line, f"names nobody: give at least one of {', '.join(_SUBJECT_PATTERNS)}")
            return None
        found = {
            key: self._patterns(each.value, f"{path}.{key}", *_SUBJECT_PATTERNS[key])
            for key, each in members.items()
            if key in _SUBJECT_PATTERNS
        }
        return Subject(**found)

    def _patterns(self, node: Node, path: str, shape: re.Pattern[str], meant: str) -> tuple[str, ...]:
        """One pattern, or a list of them of which any may match; sorted, none twice."""
        each = [(node, path)]
        if isinstance(node, Items):
            each = [(item, f"{path}[{place}]") for place, item in enumerate(self.items(node, path))]
        found = set()
        for item, where in each[:MAX_PATTERNS]:
            number = item.value if isinstance(item, Scalar) else None
            plain = isinstance(number, int) and not isinstance(number, bool)
            text = str(number) if plain else self.text(item, where)
            if text is not None and not (shape.fullmatch(text) and len(text.encode()) <= MAX_PATTERN_BYTES):
                self.bad(where, item.line, f"must be {meant}, not {item.noun}")
            elif text is not None:
                found.add(text)
        if len(each) > MAX_PATTERNS:
            self.cannot(path, node.line, f"has {len(each)} patterns, more than {MAX_PATTERNS}")
        return tuple(sorted(found))

    def _blocks_itself(self, rules: list[Rule]) -> None:
        """Notes an allowance that a denial of the same policy takes whole: it can never decide."""
        denials = {_about(rule): rule.path for rule in reversed(rules) if rule.deny}
        for rule in rules:
            if rule.deny or not denials:
                continue
            by = denials.get((rule.direction, (), (), (), ())) or denials.get(_about(rule))
            if by:
                reason = f"can never decide: {by} of the same policy denies all of it, and denials come first"
                self.bad(f"spec.{rule.path}", rule.line, reason)

    def _section(self, key: str, node: Node) -> list[Rule]:
        path = f"spec.{key}"
        direction, deny = SECTIONS[key]
        rules = []
        for place, item in enumerate(self.items(node, path)):
            self.rules += 1
            if self.rules > MAX_RULES:
                self.cannot(f"{path}[{place}]", item.line, f"a policy has at most {MAX_RULES} rules")
                break
            rules.append(self.rule(item, f"{path}[{place}]", f"{key}[{place}]", direction, deny=deny))
        return rules


def _about(rule: Rule) -> tuple[object, ...]:
    return rule.direction, rule.blocks, rule.names, rule.ports, rule.icmps
