"""Messages of the control socket: `{id, verb, args}` in; `{id, item}`..., `{id, end}` or `{id, error}` out."""

from __future__ import annotations

from typing import Any

import msgspec

from aegis.errors import AegisError, EnvelopeInvalid, PolicyError

MAX_REQUEST_BYTES = 1 << 20  # a policy document of 1,000 rules is 200 KiB

Id = int | str | None


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order or question. `id` comes back with every answer to it."""

    id: int | str
    verb: str
    args: dict[str, Any] = {}


class _OnlyId(msgspec.Struct):
    id: int | str | None = None


_decode = msgspec.json.Decoder(Request).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode
_encode = msgspec.json.Encoder().encode


def read(frame: str | bytes) -> Request:
    """The request in a frame. Raises EnvelopeInvalid."""
    hint = 'send {"id": 1, "verb": "status", "args": {}}'
    if isinstance(frame, bytes):
        raise EnvelopeInvalid("a request is a text frame, not a binary one", hint=hint)
    try:
        return _decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise EnvelopeInvalid(str(error), hint=hint) from None


def id_of(frame: str | bytes) -> Id:
    """The id of a frame that is no request, where that much of it can be read."""
    try:
        return _decode_id(frame).id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def item(identity: Id, content: object) -> bytes:
    return _encode({"id": identity, "item": content})


def end(identity: Id) -> bytes:
    return _encode({"id": identity, "end": True})


def error(identity: Id, problem: AegisError) -> bytes:
    """`code`, `text`, `hint` and, of a policy document, `path` and `line`."""
    said: dict[str, object] = {"code": problem.code, "text": str(problem), "hint": problem.hint}
    if isinstance(problem, PolicyError):
        said |= {"path": problem.path, "line": problem.line, "reason": problem.reason}
    return _encode({"id": identity, "error": said})
