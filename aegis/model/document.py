"""A YAML or JSON document as a tree that knows its lines, for readers that must name the place of each mistake.

Less than YAML on purpose: one document, keys are text and unique, no anchors, aliases, merge keys or tags, bounded
size and depth. No value of a tree can hold itself, so that the collector of cycles need not know of them: of a large
document it would look at each again and again. Plain scalars mean what YAML 1.2's core schema says (`on`, `0x10`, `010` and `1:30` are text, not
values).
"""

from __future__ import annotations

import re

import msgspec

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./-]{1,60}")


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One value of a document and the line on which it begins, from 1."""

    line: int

    @property
    def noun(self) -> str:
        """What it is, with its article, for a message."""
        raise NotImplementedError


class Scalar(Node, frozen=True, kw_only=True, gc=False):
    """`value` is None, a bool, an int, a float (only as the text of one is told apart from text) or a str."""

    value: str | int | float | bool | None

    @property
    def noun(self) -> str:
        if self.value is None:
            return "nothing"
        if isinstance(self.value, bool):
            return f"the boolean {str(self.value).lower()}"
        if isinstance(self.value, int | float):
            return f"the number {self.value}"
        return f"the text {short(self.value)}"


class Items(Node, frozen=True, kw_only=True, gc=False):
    """A list."""

    items: tuple[Node, ...]

    @property
    def noun(self) -> str:
        return "a list" if self.items else "an empty list"


class Member(msgspec.Struct, frozen=True, gc=False):
    """A key, the line it stands on, and its value."""

    key: str
    line: int
    value: Node


class Mapping(Node, frozen=True, kw_only=True, gc=False):
    """Keys and values in the order of the document; no key twice."""

    members: tuple[Member, ...]

    @property
    def noun(self) -> str:
        return "a mapping" if self.members else "an empty mapping"


def parse_tree(data: bytes) -> Node:
    """The document's tree. Raises PolicyInvalid with the path and line of the first thing that cannot be read."""
    # PyYAML costs 24 ms and 3 MB, which an agent without policies does not need.
    from aegis.model.document_parser import parse  # noqa: PLC0415

    return parse(data)


def child(path: str, key: str) -> str:
    """The path of a member: `spec.egress`. A key that is no plain word is quoted and cut."""
    shown = key if _PLAIN_KEY.fullmatch(key) else short(key)
    return f"{path}.{shown}" if path else shown


def short(text: str) -> str:
    """Text quoted, and cut where it is long."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return repr(shown)
