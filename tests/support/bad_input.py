"""The classes of bad input of reliability.md, as data: each makes the raw bytes one end writes to the other.

`Setting` is what a class may build on: the side, a good envelope of the present state, its payload as JSON. A class
says what must come of it: `close` (the connection ends with a code), `refuse` (a typed answer, or the end), or `ignore`
(it is lawful, and changes nothing).
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from aegis.protocol.v1 import BATCH_BYTES, BATCH_ROOM
from tests.support.rawsocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

Rule = Literal["close", "refuse", "ignore"]

SMALL_ORDER = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
EXEC: dict[str, Any] = {
    "schema": "aegis.event",
    "type": "exec",
    "time_ns": 1,
}  # as little as an item may have
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # L of RFC 8032, section 5.1


@dataclass(frozen=True)
class Setting:
    """Where the bad bytes are to go. `envelope` is a good one of this state; `payload` what its payload says."""

    mask: bool
    state: str
    envelope: dict[str, Any]
    payload: dict[str, Any]
    authentication: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    frame_cap: int = 64 * 1024
    uid: str = "nobody"
    sign: Callable[[dict[str, Any]], dict[str, Any]] = lambda envelope: (
        envelope
    )  # where a session signs all it says

    def raw(self, payload: bytes, opcode: int = TEXT, **how: Any) -> bytes:
        return frame(payload, opcode, mask=self.mask, **how)

    def text(self, content: str | bytes) -> bytes:
        return self.raw(content if isinstance(content, bytes) else content.encode())

    def changed(self, **members: Any) -> bytes:
        """The good envelope with members replaced; a member that is `...` is left out."""
        content = {key: value for key, value in {**self.envelope, **members}.items() if value is not ...}
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # there is nothing to sign in some
            content = self.sign(content)
        return self.text(json.dumps(content))

    def spliced(self, member: str, literal: str) -> bytes:
        """The good envelope with `literal` as it stands as the value of a member."""
        marker = "@@@"
        return self.text(json.dumps({**self.envelope, member: marker}).replace(f'"{marker}"', literal))

    def inner(self, content: bytes) -> bytes:
        """The good envelope with other bytes as its payload, base64."""
        return self.changed(payload=base64.b64encode(content).decode())


@dataclass(frozen=True)
class Bad:
    name: str
    group: str
    rule: Rule
    make: Callable[[Setting], bytes]
    only: tuple[str, ...] = ()  # states; empty: all three


def _authentication(**members: Any) -> Callable[[Setting], bytes]:
    """An authentication request with members replaced after it was signed; for the gateway only."""

    def make(setting: Setting) -> bytes:
        assert setting.authentication is not None
        return setting.text(json.dumps(setting.authentication(members)))

    return make


def _beyond_order(signature: bytes) -> bytes:
    """The same signature with S + L: what a verifier that forgets RFC 8032 section 5.1.7 takes."""
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


def _wrong_type(member: str) -> Callable[[Setting], bytes]:
    return lambda s: s.spliced(member, "[7]")


def _batch(content: dict[str, Any], size: int = 0) -> Callable[[Setting], bytes]:
    """A batch of events with members replaced, filled up to so many bytes with spaces."""
    good = {"kind": "events", "stream": 1, "first": 0, "boot_id": "0" * 32, "items": []}
    compact = json.dumps(
        {**good, **content}, separators=(",", ":")
    )  # an item that names another has no spaces
    payload = base64.b64encode(compact.encode().ljust(size)).decode()
    return lambda s: s.changed(channel=f"agent.{s.uid}.processes", type="event", payload=payload)


FRAMES = (
    Bad("binary for text", "frame", "ignore", lambda s: s.raw(json.dumps(s.envelope).encode(), BINARY)),
    Bad("empty text", "frame", "refuse", lambda s: s.raw(b"")),
    Bad("one byte", "frame", "refuse", lambda s: s.raw(b"{")),
    Bad("one byte over the cap", "frame", "close", lambda s: s.raw(b" " * (s.frame_cap + 1))),
    Bad("announces 2^62 bytes", "frame", "close", lambda s: s.raw(b"x", announced=1 << 62)),
    Bad("announces 2^63 bytes", "frame", "close", lambda s: s.raw(b"x", announced=1 << 63)),
    Bad(
        "10,000 fragments over the cap",
        "frame",
        "close",
        lambda s: (
            s.raw(b"x" * 200, TEXT, fin=False)
            + s.raw(b"x" * 200, CONTINUATION, fin=False) * 9_998
            + s.raw(b"x" * 200, CONTINUATION)
        ),
    ),
    Bad("masked as it must not be", "frame", "close", lambda s: frame(b"{}", TEXT, mask=not s.mask)),
    Bad("reserved bit", "frame", "close", lambda s: s.raw(b"{}", reserved=4)),
    Bad("reserved opcode", "frame", "close", lambda s: s.raw(b"{}", 3)),
    Bad("reserved control opcode", "frame", "close", lambda s: s.raw(b"", 11)),
    Bad("close code 999", "frame", "close", lambda s: s.raw(struct.pack("!H", 999), CLOSE)),
    Bad("close of one byte", "frame", "close", lambda s: s.raw(b"\x03", CLOSE)),
    Bad("close reason not UTF-8", "frame", "close", lambda s: s.raw(b"\x03\xe8\xff", CLOSE)),
    Bad("ping of 126 bytes", "frame", "close", lambda s: s.raw(b"p" * 126, PING)),
    Bad("fragmented ping", "frame", "close", lambda s: s.raw(b"p", PING, fin=False)),
    Bad("continuation of nothing", "frame", "close", lambda s: s.raw(b"x", CONTINUATION)),
    Bad("text within a fragmented text", "frame", "close", lambda s: s.raw(b"{", fin=False) + s.raw(b"{}")),
    Bad("compressed though that is off", "frame", "close", lambda s: s.raw(b"\xaaV*\x01\x00", reserved=4)),
    Bad("invalid UTF-8", "frame", "close", lambda s: s.raw(b'{"id":"\xff\xfe"}')),
    Bad(
        "UTF-8 cut in a fragment",
        "frame",
        "close",
        lambda s: s.raw(b"\xe2\x82", fin=False) + s.raw(b"", CONTINUATION),
    ),
    Bad("1,000 pings", "frame", "ignore", lambda s: s.raw(b"", PING) * 1_000),
)

JSON = (
    Bad("not JSON", "json", "refuse", lambda s: s.text("hello")),
    Bad("array", "json", "refuse", lambda s: s.text("[]")),
    Bad("number", "json", "refuse", lambda s: s.text("1")),
    Bad("null", "json", "refuse", lambda s: s.text("null")),
    Bad("byte order mark", "json", "refuse", lambda s: s.text("\ufeff" + json.dumps(s.envelope))),
    Bad(
        "NUL between members",
        "json",
        "refuse",
        lambda s: s.text(json.dumps(s.envelope).replace(",", ",\0", 1)),
    ),
    Bad("NUL in the channel", "json", "refuse", lambda s: s.spliced("channel", '"a\\u0000b"')),
    Bad("lone surrogate", "json", "refuse", lambda s: s.spliced("channel", '"\\ud800"')),
    Bad("33 deep", "json", "refuse", lambda s: s.spliced("headers", '{"a":' * 33 + '"x"' + "}" * 33)),
    Bad("20,000 deep", "json", "refuse", lambda s: s.text("[" * 20_000)),
    Bad(
        "10,000 unknown keys of a list",
        "json",
        "refuse",
        lambda s: s.text("[" + ",".join('{"a":1}' for _ in range(7_000)) + "]"),
    ),
    Bad("1e999", "json", "refuse", lambda s: s.spliced("timestamp", "1e999")),
    Bad("NaN", "json", "refuse", lambda s: s.spliced("timestamp", "NaN")),
    Bad("2^63", "json", "refuse", lambda s: s.spliced("timestamp", str(2**63))),
    Bad("an integer of 400 digits", "json", "refuse", lambda s: s.spliced("timestamp", "9" * 400)),
    Bad("a fraction for an integer", "json", "refuse", lambda s: s.spliced("timestamp", "1.5")),
    Bad("1.0 for an integer", "json", "refuse", lambda s: s.spliced("timestamp", "1.0")),
    Bad("trailing data", "json", "refuse", lambda s: s.text(json.dumps(s.envelope) + "{}")),
    Bad("comment", "json", "refuse", lambda s: s.text("/* */" + json.dumps(s.envelope))),
    Bad("single quotes", "json", "refuse", lambda s: s.text("{'id':'a'}")),
    Bad(
        "control character in a string",
        "json",
        "refuse",
        lambda s: s.text(json.dumps(s.envelope).replace('"id": "', '"id": "\n')),
    ),
)

ENVELOPE = (
    *(
        Bad(
            f"{member} of the wrong type",
            "envelope",
            "refuse",
            _wrong_type(member),
        )
        for member in ("id", "type", "channel", "payload", "timestamp", "nonce", "signature", "headers")
    ),
    Bad("channel missing", "envelope", "refuse", lambda s: s.changed(channel=...)),
    Bad("channel null", "envelope", "refuse", lambda s: s.changed(channel=None)),
    Bad("channel empty", "envelope", "refuse", lambda s: s.changed(channel="")),
    Bad("channel of 4 KiB", "envelope", "refuse", lambda s: s.changed(channel="a" * 4096)),
    Bad("channel unknown", "envelope", "refuse", lambda s: s.changed(channel="agent.x.nothing")),
    Bad("channel with a path", "envelope", "refuse", lambda s: s.changed(channel="../../etc/passwd")),
    Bad("channel with a wildcard", "envelope", "refuse", lambda s: s.changed(channel="agent.*.>")),
    Bad("id of 4 KiB", "envelope", "refuse", lambda s: s.changed(id="a" * 4096)),
    Bad("type unknown", "envelope", "refuse", lambda s: s.changed(type="gossip"), ("before",)),
    Bad("timestamp a string", "envelope", "refuse", lambda s: s.changed(timestamp="1")),
    Bad("headers with a number", "envelope", "refuse", lambda s: s.changed(headers={"a": 1})),
    Bad("payload an object", "envelope", "refuse", lambda s: s.changed(payload={"a": 1})),
    Bad("an unknown member", "envelope", "ignore", lambda s: s.changed(extra={"a": [1]})),
)

PAYLOAD = (
    Bad("base64 of a foreign alphabet", "base64", "refuse", lambda s: s.changed(payload="!!!!")),
    Bad("base64 for URLs", "base64", "refuse", lambda s: s.changed(payload="_-_-")),
    Bad("base64 with a blank", "base64", "refuse", lambda s: s.changed(payload="e30 =")),
    Bad("base64 without padding", "base64", "refuse", lambda s: s.changed(payload="e30")),
    Bad("base64 with loose bits", "base64", "refuse", lambda s: s.changed(payload="e31=")),
    Bad("payload empty", "base64", "refuse", lambda s: s.changed(payload="")),
    Bad("payload not JSON", "base64", "refuse", lambda s: s.inner(b"hello")),
    Bad("payload an array", "base64", "refuse", lambda s: s.inner(b"[]")),
    Bad("payload null", "base64", "refuse", lambda s: s.inner(b"null")),
    Bad(
        "payload invalid UTF-8",
        "base64",
        "refuse",
        lambda s: s.inner(b'{"kind":"\xff","agent_id":"\xff","agent_pubkey":"\xff"}'),
    ),
    Bad("payload 20,000 deep", "base64", "refuse", lambda s: s.inner(b'{"a":' * 6_000)),
    Bad("payload without members", "base64", "refuse", lambda s: s.inner(b"{}"), ("before", "authenticated")),
)

# What only an agent says: to a gateway.
TO_GATEWAY = (
    Bad(
        "key of 31 bytes",
        "crypto",
        "refuse",
        _authentication(public_key=base64.b64encode(bytes(31)).decode()),
    ),
    Bad(
        "key of 33 bytes",
        "crypto",
        "refuse",
        _authentication(public_key=base64.b64encode(bytes(33)).decode()),
    ),
    Bad(
        "key of another",
        "crypto",
        "refuse",
        _authentication(public_key=base64.b64encode(bytes(range(32))).decode()),
    ),
    Bad(
        "key of small order",
        "crypto",
        "refuse",
        _authentication(public_key=base64.b64encode(SMALL_ORDER).decode()),
    ),
    Bad(
        "signature of zeros",
        "crypto",
        "refuse",
        _authentication(signature=base64.b64encode(bytes(64)).decode()),
    ),
    Bad(
        "signature of 63 bytes",
        "crypto",
        "refuse",
        _authentication(signature=base64.b64encode(bytes(63)).decode()),
    ),
    Bad("signature with S + L", "crypto", "refuse", _authentication(signature=_beyond_order)),
    Bad("signature empty", "crypto", "refuse", _authentication(signature="")),
    Bad("id of another after signing", "crypto", "refuse", _authentication(agent_id="somebody-else")),
    Bad("id with a slash", "crypto", "refuse", _authentication(agent_id="../x", sign=True)),
    Bad("id empty", "crypto", "refuse", _authentication(agent_id="", sign=True)),
    Bad("id of 65 characters", "crypto", "refuse", _authentication(agent_id="a" * 65, sign=True)),
    Bad("nonce of 1 KiB", "crypto", "refuse", _authentication(nonce="n" * 1024, sign=True)),
    Bad("nonce empty", "crypto", "refuse", _authentication(nonce="", sign=True)),
    Bad("timestamp of 1970", "crypto", "refuse", _authentication(timestamp=1, sign=True)),
    Bad("timestamp in ten years", "crypto", "refuse", _authentication(timestamp="+315360000", sign=True)),
    Bad("timestamp negative", "crypto", "refuse", _authentication(timestamp=-1, sign=True)),
    Bad("the same authentication again", "crypto", "refuse", _authentication(replay=True)),
    Bad(
        "registration before authentication",
        "order",
        "refuse",
        lambda s: s.changed(channel="agent.registration", type="request", payload="e30="),
        ("before",),
    ),
    Bad(
        "completion before authentication",
        "order",
        "refuse",
        lambda s: s.changed(channel="registration.complete", type="request", payload="e30="),
        ("before",),
    ),
    Bad(
        "heartbeat before authentication",
        "order",
        "refuse",
        lambda s: s.changed(channel="agent.x.heartbeat", type="heartbeat", payload="e30="),
        ("before",),
    ),
    Bad(
        "completion of nobody's registration",
        "order",
        "refuse",
        lambda s: s.changed(
            channel="agent.registration.complete",
            type="request",
            payload=base64.b64encode(
                json.dumps(
                    {
                        "registration_id": "0" * 36,
                        "host_id": "h",
                        "signature": base64.b64encode(bytes(64)).decode(),
                    }
                ).encode()
            ).decode(),
        ),
    ),
    *(
        Bad(
            f"batch: {name}",
            "batch",
            "ignore" if name == "kind unknown" else "refuse",  # the deployed channels take any
            _batch(content, *size),
            ("registered",),
        )
        for name, content, *size in (
            ("kind unknown", {"kind": "gossip"}),
            ("stream negative", {"stream": -1}),
            ("first a string", {"first": "0"}),
            ("first 2^63", {"first": 2**63}),
            ("boot id of three digits", {"boot_id": "abc"}),
            ("items an object", {"items": {}}),
            ("513 items", {"items": [{}] * 513}),
            ("a byte more than it may have", {"items": [EXEC]}, BATCH_BYTES + BATCH_ROOM + 1),
            ("an item a number, in as many bytes as it may have", {"items": [1]}, BATCH_BYTES + BATCH_ROOM),
            ("an item a number", {"items": [1]}),
            ("an item without a type", {"items": [{"schema": "aegis.event"}]}),
            (
                "an item whose time is a string",
                {"items": [{"schema": "aegis.event", "type": "exec", "time_ns": "1"}]},
            ),
            ("shared an object", {"items": [EXEC], "shared": {}}),
            ("a shared number", {"items": [EXEC], "shared": [1]}),
            ("1,025 shared objects", {"items": [EXEC], "shared": [{}] * 1025}),
            ("a shared type", {"items": [{**EXEC, "shared": 0}], "shared": [{"type": "exit"}]}),
            ("an item names what is not there", {"items": [{**EXEC, "shared": 1}], "shared": [{}]}),
            ("a shared object names itself", {"items": [EXEC], "shared": [{"a": 1, "shared": 0}]}),
            (
                "items of 1 MiB, each with what it names",
                {"items": [{**EXEC, "shared": 0}] * 130, "shared": [{"a": "x" * 8192}]},
            ),
        )
    ),
)

GATEWAY_TABLE = (*FRAMES, *JSON, *ENVELOPE, *PAYLOAD, *TO_GATEWAY)
