"""The document tree: lines, paths, and everything of YAML that is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import PolicyInvalid
from aegis.model.document import Items, Mapping, Node, Scalar, parse_tree
from aegis.model.document_parser import MAX_BYTES, MAX_DEPTH


def plain(node: Node) -> object:
    """The tree without its lines."""
    if isinstance(node, Mapping):
        return {each.key: plain(each.value) for each in node.members}
    if isinstance(node, Items):
        return [plain(each) for each in node.items]
    assert isinstance(node, Scalar)
    return node.value


def test_values_and_lines() -> None:
    tree = parse_tree(b"a: 1\nb:\n- x\n- {c: true, d: null}\n")
    assert plain(tree) == {"a": 1, "b": ["x", {"c": True, "d": None}]}
    assert isinstance(tree, Mapping)
    assert [each.line for each in tree.members] == [1, 2]
    inner = tree.members[1].value
    assert isinstance(inner, Items)
    assert [each.line for each in inner.items] == [3, 4]


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
def test_json_is_read_as_json_does(indent: int | str | None) -> None:
    value = {
        "text": 'q"\\/\u00fc\n',
        "numbers": [0, -7, 65536],
        "nested": {"t": True, "n": None, "e": [], "m": {}},
    }
    assert plain(parse_tree(json.dumps(value, indent=indent).encode())) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("23", 23),
        ("-5", -5),
        ("010", "010"),  # octal in YAML 1.1
        ("0x10", "0x10"),
        ("1:30", "1:30"),  # sexagesimal in YAML 1.1
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("'true'", "true"),
        ('"23"', "23"),
        ("~", None),
        ("1.5", 1.5),
        ("2027-01-01", "2027-01-01"),
    ],
)
def test_plain_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    found = plain(parse_tree(f"a: {text}".encode()))
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "path", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3, "twice"),
        ("a:\n  b: 1\n  b: 2\n", "a.b", 3, "twice"),
        ("- {x: 1}\n- {y: 1, y: 2}\n", "[1].y", 2, "twice"),
        ("a: &x [1]\n", "a", 1, "anchors"),
        ("a: 1\nb: *x\n", "b", 2, "alias"),
        ("a: !!python/object:os.system 1\n", "a", 1, "tags"),
        ("a: !thing {b: 1}\n", "a", 1, "tags"),
        ("1: x\n", "document", 1, "key"),
        ("? [a]\n: x\n", "document", 1, "key"),
        ("a: [1\n", "document", 2, "neither YAML nor JSON"),
        ("a: 1\n---\nb: 2\n", "document", 2, "more than one"),
        ("", "document", 1, "empty"),
        ("# only a comment\n", "document", 1, "empty"),
        (
            "a: \x01\n",
            "document",
            1,
            "neither YAML nor JSON: control characters are not allowed (#x01 at byte 3)",
        ),
        ("a: 1\nb: \u00e9\U0001f600\nc: \x07\n", "document", 3, "(#x07 at byte 18)"),
        ("\ufeffa: 1\nb: \x07\n", "document", 2, "(#x07 at byte 11)"),
    ],
)
def test_what_is_refused(text: str, path: str, line: int | None, said: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse_tree(text.encode())
    assert (caught.value.path, caught.value.line) == (path, line)
    assert said in str(caught.value)


def test_bombs_are_refused_before_they_grow() -> None:
    laughs = "a: &a [x]\n" + "".join(f"{'b' * n}: &{'b' * n} [*a,*a]\n" for n in range(1, 9))
    with pytest.raises(PolicyInvalid, match="anchors"):
        parse_tree(laughs.encode())
    with pytest.raises(PolicyInvalid, match="deeper"):
        parse_tree(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(PolicyInvalid, match="bytes"):
        parse_tree(b" " * (MAX_BYTES + 1))
    with pytest.raises(PolicyInvalid, match="values"):
        parse_tree(b"[" + b"1," * 200_001 + b"1]")


def test_not_utf_8_names_the_line() -> None:
    with pytest.raises(PolicyInvalid, match="UTF-8") as caught:
        parse_tree(b"a: 1\nb: \xff\n")
    assert caught.value.line == 2
    assert str(caught.value) == "document (line 2): is not UTF-8: invalid start byte (#xff at byte 8)"


@given(data=st.binary(min_size=1, max_size=200))
def test_whatever_the_bytes_are_a_refusal_names_a_line(data: bytes) -> None:
    refusal = None
    try:
        parse_tree(data)
    except PolicyInvalid as error:
        refusal = error
    if refusal is not None:
        assert refusal.path
        assert refusal.line is not None
        assert 1 <= refusal.line <= len(data) + 1


def test_a_strange_key_cannot_paint_the_terminal() -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse_tree(b'"\\e[31mred": {x: 1, x: 2}')
    assert "\x1b" not in str(caught.value)
