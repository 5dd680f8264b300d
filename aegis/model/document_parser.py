"""From text to the tree of `aegis.model.document`: JSON natively, YAML from the events of libyaml, without recursion.

Both refuse while they read. JSON may be large; what libyaml takes a second for is bounded by that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from aegis._native.policy_json import Reader, Refused, elements
from aegis.errors import PolicyInvalid, PolicyUnenforceable
from aegis.model.document import Items, Mapping, Member, Node, Scalar, child, short
from aegis.model.policy import MAX_RULES

MAX_BYTES = 32 << 20
MAX_YAML_BYTES = 1 << 20
MAX_NODES = 200_000
MAX_JSON_NODES = 2_500_000
RULE_DEPTH = 3  # lists and mappings around a rule: the document, spec, a section
MAX_DEPTH = 24

_MARK = b"\xef\xbb\xbf"  # of the byte order: some editors begin a file with it
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SPACE = b" \t\r\n"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})


def parse(data: bytes) -> Node:
    """The document's tree. Raises PolicyInvalid with the path and line of the first thing that cannot be read."""
    if len(data) > MAX_BYTES:
        raise PolicyInvalid("document", f"has more than {MAX_BYTES} bytes")
    if data.lstrip(_SPACE)[:1] == b"{":
        root = _json(data)
        if root is not None:
            return root
    if len(data) > MAX_YAML_BYTES:
        reason = f"has more than {MAX_YAML_BYTES} bytes of YAML: write it as JSON"
        raise PolicyInvalid("document", reason)
    text = text_of(data)
    try:
        return _compose(yaml.parse(text.removeprefix("\ufeff"), Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_or_none = None if mark is None else mark.line + 1
        raise PolicyInvalid(
            "document", f"is neither YAML nor JSON: {error.problem or error.context}", line=line_or_none
        ) from error
    except yaml.reader.ReaderError as error:
        at = error.position + (len(_MARK) if data.startswith(_MARK) else 0)
        reason = f"is neither YAML nor JSON: {error.reason} (#x{error.character:02x} at byte {at})"
        raise PolicyInvalid("document", reason, line=_line_at(data, at)) from error
    except yaml.YAMLError as error:
        raise PolicyInvalid("document", f"is neither YAML nor JSON: {error}") from error


def _json(data: bytes) -> Node | None:
    """The tree of a JSON document; None where it is none and may be YAML."""
    rules, line = elements(data, RULE_DEPTH)
    if rules > MAX_RULES:
        reason = f"a policy has at most {MAX_RULES} rules, this one has {rules}"
        raise PolicyUnenforceable("spec", reason, line=line)
    try:
        reader = Reader(data, (Scalar, Items, Member, Mapping), MAX_DEPTH, MAX_JSON_NODES)
        found: Node = reader.document()
    except UnicodeDecodeError:
        return None  # said by whoever reads on
    except Refused as error:
        if len(data) <= MAX_YAML_BYTES:
            return None
        path = ""
        for each in error.path:
            path = f"{path}[{each}]" if isinstance(each, int) else child(path, each)
        raise PolicyInvalid(path or "document", error.reason, line=error.line) from error
    return found


def text_of(data: bytes) -> str:
    """The document as text. Raises PolicyInvalid with the line, and with the byte by which it is no UTF-8."""
    if len(data) > MAX_BYTES:
        raise PolicyInvalid("document", f"has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: {error.reason} (#x{data[error.start]:02x} at byte {error.start})"
        raise PolicyInvalid("document", reason, line=_line_at(data, error.start)) from error


def _line_at(data: bytes, at: int) -> int:
    """The 1-based line of a byte."""
    return data.count(b"\n", 0, at) + 1


class _Open:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("items", "key", "key_line", "keys", "line", "members")

    def __init__(self, line: int, *, mapping: bool) -> None:
        self.line = line
        self.items: list[Node] = []
        self.members: list[Member] | None = [] if mapping else None
        self.keys: set[str] = set()
        self.key: str | None = None
        self.key_line = 0

    def close(self) -> Node:
        if self.members is None:
            return Items(line=self.line, items=tuple(self.items))
        return Mapping(line=self.line, members=tuple(self.members))


def _compose(events: Iterator[yaml.Event]) -> Node:
    """Build the tree from the parser's events, without recursion."""
    stack: list[_Open] = []
    root: Node | None = None
    nodes = 0
    for event in events:
        done: Node | None = None
        if isinstance(event, yaml.ScalarEvent):
            done = _scalar(event, stack)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            _refuse_extras(event, stack)
            if len(stack) >= MAX_DEPTH:
                raise PolicyInvalid(_path(stack), f"is nested deeper than {MAX_DEPTH}", line=_line(event))
            if stack and stack[-1].members is not None and stack[-1].key is None:
                raise PolicyInvalid(_path(stack), "a key must be text", line=_line(event))
            stack.append(_Open(_line(event), mapping=isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = stack.pop().close()
        elif isinstance(event, yaml.AliasEvent):
            raise PolicyInvalid(_path(stack), "aliases are not taken: write the value out", line=_line(event))
        elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise PolicyInvalid("document", "holds more than one document", line=_line(event))
        if done is None:
            continue
        nodes += 1
        if nodes > MAX_NODES:
            raise PolicyInvalid("document", f"holds more than {MAX_NODES} values", line=done.line)
        if stack:
            _add(stack, done)
        else:
            root = done
    if root is None:
        raise PolicyInvalid("document", "is empty", line=1)
    return root


def _add(stack: list[_Open], node: Node) -> None:
    """Put a finished value into the innermost open list or mapping: there, first the key, then the value."""
    top = stack[-1]
    if top.members is None:
        top.items.append(node)
    elif top.key is None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            raise PolicyInvalid(_path(stack), f"a key must be text, not {node.noun}", line=node.line)
        if node.value in top.keys:
            path = child(_below(stack), node.value)
            raise PolicyInvalid(path, "is given twice", line=node.line)
        top.keys.add(node.value)
        top.key = node.value
        top.key_line = node.line
    else:
        top.members.append(Member(top.key, top.key_line, node))
        top.key = None


def _scalar(event: yaml.ScalarEvent, stack: list[_Open]) -> Scalar:
    _refuse_extras(event, stack)
    plain = event.style is None or event.style == ""
    return Scalar(line=_line(event), value=_resolve(event.value) if plain else event.value)


def _resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar."""
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not re.fullmatch(r"[-+]?[0-9]+", text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _refuse_extras(event: yaml.NodeEvent, stack: list[_Open]) -> None:
    if event.anchor is not None:
        raise PolicyInvalid(_path(stack), "anchors are not taken: write the value out", line=_line(event))
    tag = getattr(event, "tag", None)
    if tag is not None and tag != "!":
        raise PolicyInvalid(_path(stack), f"tags are not taken ({short(tag)})", line=_line(event))


def _path(stack: list[_Open]) -> str:
    """Where the next value of the innermost open list or mapping stands."""
    return _below(stack) or "document"


def _below(stack: list[_Open]) -> str:
    """The same, empty for the document itself."""
    path = ""
    for level, each in enumerate(stack):
        if each.members is None:
            path += f"[{len(each.items)}]"
        elif each.key is not None:
            path = child(path, each.key)
        elif level == len(stack) - 1:
            break
    return path


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return 1 if mark is None else mark.line + 1
