"""What every part of a policy document is read by: values of their kind and range, and where they are not, why."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from aegis.errors import PolicyError, PolicyInvalid, PolicyUnenforceable
from aegis.model.document import Items, Mapping, Member, Node, Scalar, child

_Part = TypeVar("_Part")


class Reader:
    """One reading of one document. Every method notes its problems and goes on, so that all are found."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.invalid: list[PolicyError] = []
        self.unenforceable: list[PolicyError] = []
        self.rules = 0

    def bad(self, path: str, line: int, reason: str) -> None:
        self.invalid.append(PolicyInvalid(path, reason, line=line))

    def cannot(self, path: str, line: int, reason: str) -> None:
        self.unenforceable.append(PolicyUnenforceable(path, reason, line=line))

    def members(
        self, node: Node, path: str, known: Collection[str], required: Collection[str] = ()
    ) -> dict[str, Member] | None:
        """The members of a mapping by key; None when it is none. Notes unknown and missing keys."""
        if not isinstance(node, Mapping):
            self.bad(path or "document", node.line, f"must be a mapping, not {node.noun}")
            return None
        found = {each.key: each for each in node.members}
        for key, each in found.items():
            if key not in known:
                self.bad(child(path, key), each.line, f"unknown key; known here: {', '.join(known)}")
        for key in required:
            if key not in found:
                self.bad(child(path, key), node.line, "is missing")
        return found

    def items(self, node: Node, path: str) -> tuple[Node, ...]:
        """The items of a list that may not be empty."""
        if not isinstance(node, Items):
            self.bad(path, node.line, f"must be a list, not {node.noun}")
            return ()
        if not node.items:
            self.bad(path, node.line, "is an empty list: leave it out or fill it")
        return node.items

    def number(self, node: Node, path: str, low: int, high: int) -> int | None:
        value = node.value if isinstance(node, Scalar) else None
        if not isinstance(value, int) or isinstance(value, bool):
            self.bad(path, node.line, f"must be a whole number from {low} to {high}, not {node.noun}")
            return None
        if not low <= value <= high:
            self.bad(path, node.line, f"must be a whole number from {low} to {high}, not {value}")
            return None
        return value

    def text(self, node: Node, path: str) -> str | None:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        self.bad(path, node.line, f"must be text, not {node.noun}")
        return None

    def word(self, node: Node, path: str, words: Collection[str]) -> str | None:
        value = self.text(node, path)
        if value is None or value in words:
            return value
        self.bad(path, node.line, f"must be one of {', '.join(words)}, not {node.noun}")
        return None

    def each(
        self, members: dict[str, Member], key: str, path: str, read: Callable[[Node, str], _Part | None]
    ) -> list[_Part]:
        """Every item of the list `key`, read; nothing when the key is absent."""
        if key not in members:
            return []
        where = f"{path}.{key}"
        found = [
            read(item, f"{where}[{place}]")
            for place, item in enumerate(self.items(members[key].value, where))
        ]
        return [each for each in found if each is not None]
