from __future__ import annotations

import json

import pytest

from aegis.agent.control import envelope
from aegis.errors import EnvelopeInvalid, PermissionDenied, PolicyInvalid


def test_a_request_is_read() -> None:
    request = envelope.read('{"id": 7, "verb": "status"}')
    assert (request.id, request.verb, request.args) == (7, "status", {})
    assert envelope.read('{"id": "x", "verb": "v", "args": {"a": [1]}}').args == {"a": [1]}


@pytest.mark.parametrize(
    ("frame", "identity"),
    [
        (b"\x00\xff", None),
        ("", None),
        ("nonsense", None),
        ("[1]", None),
        ("null", None),
        ('{"id": 3}', 3),
        ('{"id": 3, "verb": 4}', 3),
        ('{"id": 3, "verb": "v", "args": []}', 3),
        ('{"id": 3, "verb": "v", "more": 1}', 3),
        ('{"id": [], "verb": "v"}', None),
        ('{"id": 1, "verb": "v"', None),
        ("[" * 100_000, None),
        (b'{"id": "\xe7"}', None),
        ('{"id": 1, "verb": "v", "args": ' + "[" * 100_000, None),
        (
            '{"id": 1, "verb": "\ud800"}'.encode("utf-8", "surrogatepass").decode("utf-8", "replace") + "x",
            None,
        ),
    ],
)
def test_what_is_no_request_is_a_typed_error(frame: str | bytes, identity: int | None) -> None:
    with pytest.raises(EnvelopeInvalid):
        envelope.read(frame)
    assert envelope.id_of(frame) == identity


def test_answers_carry_the_id() -> None:
    assert json.loads(envelope.item(1, {"a": None})) == {"id": 1, "item": {"a": None}}
    assert json.loads(envelope.end("x")) == {"id": "x", "end": True}
    refused = json.loads(envelope.error(2, PermissionDenied("no", hint="be root")))
    assert refused == {"id": 2, "error": {"code": "permission_denied", "text": "no", "hint": "be root"}}
    place = json.loads(envelope.error(3, PolicyInvalid("spec.mode", "is wrong", line=5)))["error"]
    assert (place["path"], place["line"], place["reason"]) == ("spec.mode", 5, "is wrong")
