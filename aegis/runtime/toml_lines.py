"""Where a key stands in a TOML file: tomllib tells values, not lines.

The file is cut into statements: lines are gathered until tomllib takes them, so that strings and arrays over several
lines stay whole. Each statement is a table header, which moves the place, or keys below the current place. A file that
tomllib takes as a whole is cut without rest; keys of an inline table stand on the line where their statement begins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

Path = tuple[str, ...]


def lines_of(text: str) -> dict[Path, int]:
    """The 1-based line of every key and table header of a valid TOML text, by path."""
    found: dict[Path, int] = {}
    place: Path = ()
    statement: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        statement.append(line)
        try:
            tree = tomllib.loads("".join(statement))
        except tomllib.TOMLDecodeError:
            continue
        begins = number - len(statement) + 1
        header = statement[0].lstrip().startswith("[")
        statement.clear()
        if header:
            place = _only_path(tree)
            found.setdefault(place, begins)
            continue
        for path in _paths(tree):
            found.setdefault((*place, *path), begins)
    return found


def _only_path(tree: Mapping[str, object]) -> Path:
    """The path a header opens: tables nested one in another, at the end empty or a list of one empty table."""
    path: list[str] = []
    node: object = tree
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        path.append(name)
    return tuple(path)


def _paths(tree: Mapping[str, object]) -> Iterator[Path]:
    for name, value in tree.items():
        yield (name,)
        if isinstance(value, dict):
            for path in _paths(value):
                yield (name, *path)
