from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from aegis.runtime.toml_lines import lines_of

TEXT = '''# a comment
top = 1

[log]   # the table
level = "info"
format = """
[not.a.table]
key = 1
"""

[modules."odd name"]
list = [
  "a",  # ]
  "b",
]
x.y = 2
inline = {p = 1, q = {r = 2}}
[[many]]
a = 1
'''


def test_each_key_has_the_line_its_statement_begins_on() -> None:
    assert lines_of(TEXT) == {
        ("top",): 2,
        ("log",): 4,
        ("log", "level"): 5,
        ("log", "format"): 6,
        ("modules", "odd name"): 11,
        ("modules", "odd name", "list"): 12,
        ("modules", "odd name", "x"): 16,
        ("modules", "odd name", "x", "y"): 16,
        ("modules", "odd name", "inline"): 17,
        ("modules", "odd name", "inline", "p"): 17,
        ("modules", "odd name", "inline", "q"): 17,
        ("modules", "odd name", "inline", "q", "r"): 17,
        ("many",): 18,
        ("many", "a"): 19,
    }


NAMES = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
VALUES = st.sampled_from(["1", '"x"', '"""\n[a]\nb = 1\n"""', "[\n1,\n2]", "'''\n'''"])


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4))
def test_every_key_of_a_valid_file_is_found_at_a_line_that_names_it(tree: dict[str, dict[str, str]]) -> None:
    text = "".join(
        f"[{table}]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items())
        for table, keys in tree.items()
    )
    tomllib.loads(text)
    lines, found = text.splitlines(), lines_of(text)
    for table, keys in tree.items():
        assert lines[found[table,] - 1] == f"[{table}]"
        for name in keys:
            assert lines[found[table, name] - 1].startswith(f"{name} = ")
