"""Any text as a configuration file: what tomllib takes has a line for each of its keys, and it is one of the file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/runtime/toml_lines.py",)


MOST = 4096  # the search for the end of a statement is quadratic; the agent's own files are short


def one(data: bytes) -> None:
    import tomllib

    from aegis.runtime.toml_lines import lines_of

    try:
        text = data[:MOST].decode()
        tree = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return
    found = lines_of(text)
    assert {path[0] for path in found if path} == set(tree), (found, tree)
    assert all(1 <= line <= len(text.splitlines()) for line in found.values()), found
    for path in found:
        nodes: list[object] = [tree]
        for name in path:
            tables = [inner for node in nodes for inner in (node if isinstance(node, list) else [node])]
            nodes = [table[name] for table in tables if isinstance(table, dict) and name in table]
            assert nodes, (path, tree)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("toml")
