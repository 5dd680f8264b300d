"""What one document says otherwise than another, value by value."""

from __future__ import annotations

from typing import Any

from aegis.model.document import Items, Mapping, Node, Scalar, child, parse_tree

MOST = 1000  # told; the rest is counted


def differences(before: bytes | None, after: bytes) -> list[dict[str, Any]]:
    """The values that differ, each with its path and what it was and is; None where there is none.

    Order of keys, comments and the form (YAML or JSON) make no difference. Raises PolicyInvalid.
    """
    old = {} if before is None else _values(parse_tree(before), "")
    new = _values(parse_tree(after), "")
    paths = [path for path in {**old, **new} if path not in old or path not in new or old[path] != new[path]]
    found = [{"path": path, "before": old.get(path), "after": new.get(path)} for path in paths[:MOST]]
    if len(paths) > MOST:
        found.append({"path": f"and {len(paths) - MOST} more", "before": None, "after": None})
    return found


def _values(node: Node, path: str) -> dict[str, Any]:
    if isinstance(node, Mapping):
        members = (_values(each.value, child(path, each.key)) for each in node.members)
        return {key: value for each in members for key, value in each.items()}
    if isinstance(node, Items):
        items = (_values(each, f"{path}[{number}]") for number, each in enumerate(node.items))
        return {key: value for each in items for key, value in each.items()}
    return {path: node.value if isinstance(node, Scalar) else None}
