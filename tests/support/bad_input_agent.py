"""The classes of bad input that only a gateway can say, to an agent: beside those of `bad_input` for both ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.support.bad_input import ENVELOPE, FRAMES, JSON, PAYLOAD, SMALL_ORDER, Bad, Rule, Setting
from tests.support.raw_gateway import NONCE, AgentLink, b64, envelope, packed

BEFORE, AUTHENTICATED, REGISTERED = ("before",), ("authenticated",), ("registered",)
NOT_CANONICAL = ((1 << 255) - 19 + 3).to_bytes(32, "little")  # y = 3, spelled a second time
ZONE = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class AgentSetting(Setting):
    """Where a gateway by hand is the one that speaks."""

    link: AgentLink

    def say(self, *frames: dict[str, Any]) -> bytes:
        return b"".join(self.text(json.dumps(each)) for each in frames)


Make = Callable[[AgentSetting], bytes]


def _bad(name: str, group: str, rule: Rule, make: Make, only: tuple[str, ...]) -> Bad:
    def made(setting: Setting) -> bytes:
        assert isinstance(setting, AgentSetting)
        return make(setting)

    return Bad(name, group, rule, made, only)


def _auth(name: str, rule: Rule = "refuse", **members: Any) -> Bad:
    """An authentication answer with other members."""

    def make(s: AgentSetting) -> bytes:
        return s.say(s.link.answer(s.link.authentication(registered=True, **members)))

    return _bad(f"auth: {name}", "auth", rule, make, BEFORE)


def _offer(name: str, rule: Rule = "refuse", **members: Any) -> Bad:
    def make(s: AgentSetting) -> bytes:
        return s.say(envelope("agent.registration", json.dumps(s.link.offer(**members))))

    return _bad(f"registration: {name}", "registration", rule, make, AUTHENTICATED)


def _completion(name: str, rule: Rule = "refuse", **members: Any) -> Bad:
    """A good offer, and the answer to what the agent then says, before it says it."""

    def make(s: AgentSetting) -> bytes:
        return s.say(
            envelope("agent.registration", json.dumps(s.link.offer())),
            envelope("agent.registration.complete", json.dumps(s.link.completion(**members))),
        )

    return _bad(f"completion: {name}", "registration", rule, make, AUTHENTICATED)


def _push(name: str, make: Callable[[AgentLink], dict[str, Any]], rule: Rule = "refuse") -> Bad:
    return _bad(f"push: {name}", "push", rule, lambda s: s.say(make(s.link)), REGISTERED)


def _order(name: str, body: dict[str, Any], channel: str = "backend.modules", rule: Rule = "refuse") -> Bad:
    """An order inside of a push that opens."""

    def make(s: AgentSetting) -> bytes:
        text = b64(json.dumps({"command_id": f"bad {name}", **body}).encode()).encode()
        return s.say(s.link.push(text, channel))

    return _bad(f"order: {name}", "order", rule, make, REGISTERED)


def _policy(name: str, /, **body: Any) -> Bad:
    return _order(f"policy: {name}", body, "backend.policies")


def _document(name: str, rules: Any, **more: Any) -> Bad:
    spec = {"egressDeny": rules} | more
    document = {
        "apiVersion": "aegis/v1",
        "kind": "HostNetworkPolicy",
        "metadata": {"name": "p", "version": 1},
    }
    return _policy(name, type="apply_policy", document={**document, "spec": spec})


def _ports(**port: Any) -> list[dict[str, Any]]:
    return [{"toPorts": [{"ports": [{"port": 1, "protocol": "TCP", **port}]}]}]


def _cidr(text: str) -> list[dict[str, Any]]:
    return [{"toCIDRSet": [{"cidr": text}]}]


def _ack(name: str, rule: Rule = "refuse", /, **members: Any) -> Bad:
    content = {"type": "ack", "class": "event", "stream": 0, "next": 0} | members

    def make(s: AgentSetting) -> bytes:
        return s.say(s.link.push(b64(json.dumps(content).encode()).encode(), "backend.ack"))

    return _bad(f"ack: {name}", "ack", rule, make, REGISTERED)


def _oracle(s: AgentSetting) -> bytes:
    """W6: a nonce and a time that make the text to sign an authentication of this agent, at any instant."""
    text = f"{s.link.agent_id}:{b64(s.link.agent_key)}:1900000000:".encode()
    return s.say(
        envelope(
            "agent.registration",
            json.dumps(s.link.offer(nonce=b64(text[:32]), server_time=text[32:].decode())),
        )
    )


def _other_signature(s: AgentSetting) -> bytes:
    answer = s.link.answer(s.link.authentication(registered=True))
    return s.say(answer | {"signature": b64(bytes(64))})


def _error(text: str, **members: Any) -> dict[str, Any]:
    return envelope("error", text, nonce="", **members)


AUTH = (
    _auth("key of 31 bytes", backend_key=b64(bytes(range(31)))),
    _auth("key of 33 bytes", backend_key=b64(bytes(range(33)))),
    _auth("key of small order", backend_key=b64(SMALL_ORDER)),
    _auth("key of zeros", backend_key=b64(bytes(32))),
    _auth("key in a second spelling", backend_key=b64(NOT_CANONICAL)),
    _auth("key empty", backend_key=""),
    _auth("key missing", backend_key=...),
    _auth("key not base64", backend_key="?" * 44),
    _auth("success a string", success="true"),
    _auth("success a number", success=1),
    _auth("success null", success=None),
    _auth("success missing", success=...),
    _auth("success false", success=False, message="Invalid signature"),
    _auth("success false, with a line and a colour in the text", success=False, message="a\nb\x1b[31mc"),
    _auth("token of 3 characters", "ignore", session_token="abc"),  # opaque, and presented to nobody
    _auth("token of 10 KiB", session_token="t" * 10_240),
    _auth("expired long ago", "ignore", expires_at=1),  # holds as long as the connection does
    _auth("expiry negative", "ignore", expires_at=-1),
    _auth("expiry 2^63", expires_at=2**63),
    _auth("expiry a string", expires_at="tomorrow"),
    _auth("says nonsense of itself", "ignore", aegis=[1]),  # a deployed gateway, then
    _bad("auth: signature of zeros", "auth", "refuse", _other_signature, BEFORE),
    _bad(
        "auth: again",
        "auth",
        "refuse",
        lambda s: s.say(s.link.answer(s.link.authentication(registered=True))),
        ("authenticated", "registered"),
    ),
    _bad("error for an answer", "auth", "refuse", lambda s: s.say(_error('{"message":"no"}')), BEFORE),
    _bad("error of no JSON", "auth", "refuse", lambda s: s.say(_error('{"message":"say "x"\n"')), ()),
)

REGISTRATION = (
    *(_offer(f"nonce of {size} bytes", nonce=b64(bytes(size))) for size in (0, 15, 17, 31, 33, 64)),
    _offer("nonce of 16 bytes", "ignore", nonce=b64(bytes(16))),
    _offer("nonce missing", nonce=...),
    _offer("nonce not base64", nonce="!" * 44),
    *(
        _offer(f"time {shown}", server_time=text)
        for shown, text in (
            ("empty", ""),
            ("a number as text", "1900000000"),
            ("the text of an authentication", "x:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=:1900000000:"),
            ("with a blank for T", ZONE.replace("T", " ")),
            ("in lower case", ZONE.lower()),
            ("without a zone", ZONE[:-1]),
            ("with a line behind", ZONE + "\n"),
            ("with a host behind", ZONE + "host"),
            ("with ten digits of a second", "2026-01-01T00:00:00.0123456789Z"),
            ("of 80 characters", ZONE + " " * 60),
            (
                "in other digits",
                ZONE.translate(dict(zip(map(ord, "0126"), "\u0660\u0661\u0662\u0666", strict=True))),
            ),
        )
    ),
    _offer("time missing", server_time=...),
    _offer("id empty", registration_id=""),
    _offer("id of 129 characters", registration_id="r" * 129),
    _offer("id a number", registration_id=7),
    _bad("registration: the signing oracle of W6", "registration", "refuse", _oracle, AUTHENTICATED),
    _bad(
        "registration: base64 for raw JSON",
        "registration",
        "ignore",
        lambda s: s.say(envelope("agent.registration", packed(s.link.offer()))),
        AUTHENTICATED,
    ),
    _bad(
        "registration: nobody asked",
        "registration",
        "refuse",
        lambda s: s.say(envelope("agent.registration", json.dumps(s.link.offer()))),
        ("before", "registered"),
    ),
    *(
        _completion(f"uid {shown}", agent_uid=uid)
        for shown, uid in (
            ("with a dot", "agent.x"),
            ("with a slash", "../agent"),
            ("empty", ""),
            ("of 65 characters", "a" * 65),
            ("with a line", "agent-0\n"),
            ("with a header", "a\r\nX-Agent-ID: b"),
            ("with NUL", "a\0"),
            ("a number", 7),
            ("missing", ...),
        )
    ),
    _completion("without a token", "ignore", bootstrap_token=...),
)

PUSHES = (
    *(
        _push(f"nonce of {size} bytes", lambda k, size=size: k.push(b"{}", nonce=bytes(size)))  # type: ignore[misc]
        for size in (0, 11, 13, 16)
    ),
    _push("nonce missing", lambda k: k.push(b"{}", nonce=NONCE) | {"nonce": None}),
    _push("nonce not base64", lambda k: k.push(b"{}") | {"nonce": "@@@@"}),
    _push("tag cut", lambda k: _cut(k.push(b'{"type":"list_modules"}'), -1)),
    _push("15 bytes", lambda k: _cut(k.push(b"{}"), 15)),
    _push("sealed with another key", lambda k: k.push(b"{}", key=bytes(32))),
    _push("not sealed", lambda k: envelope("backend.modules", packed({"type": "list_modules"}))),
    _push("inside not base64", lambda k: k.push(b"!!!!")),
    _push("inside not JSON", lambda k: k.push(b64(b"hello").encode())),
    _push("inside an array", lambda k: k.push(b64(b"[]").encode())),
    _push("inside null", lambda k: k.push(b64(b"null").encode())),
    _push("inside invalid UTF-8", lambda k: k.push(b'{"type":"\xff"}')),
    _push("inside 6,000 deep", lambda k: k.push(b'{"a":' * 6_000)),
    _push("inside empty", lambda k: k.push(b"")),
    _push("channel unknown", lambda k: k.push(b"{}", "backend.coffee")),
    _push("channel of another agent", lambda k: k.push(b"{}", "backend.agent-0000000000000000.modules")),
    _push("channel of four parts", lambda k: k.push(b"{}", f"backend.{k.uid}.x.modules")),
    _push("channel with an empty part", lambda k: k.push(b"{}", "backend..modules")),
    _bad(
        "push: before the session is up",
        "push",
        "refuse",
        lambda s: s.say(s.link.push(b'{"type":"list_modules"}')),
        ("before", "authenticated"),
    ),
)


def _cut(push: dict[str, Any], size: int) -> dict[str, Any]:
    """The sealed bytes cut, or `-1` of them cut off."""
    import base64

    return push | {"payload": b64(base64.b64decode(push["payload"])[:size])}


ORDERS = (
    _order("type unknown", {"type": "make_coffee"}),
    _order("type missing", {}),
    _order("type a number", {"type": 7}),
    _order("for inside of a process", {"type": "send_message"}),
    _order("on a channel without orders", {"type": "list_modules"}, "backend.threats"),
    _order("id of 1 KiB", {"type": "make_coffee", "command_id": "c" * 1024}),
    _order("id a number", {"type": "make_coffee", "command_id": 7}),
    *(
        _order(f"module {shown}", {"type": "start_module", "module_id": name})
        for shown, name in (
            ("with a path", "../../etc/passwd"),
            ("with NUL", "telemetry\0"),
            ("in upper case", "TELEMETRY"),
            ("of 65 characters", "m" * 65),
            ("empty", ""),
            ("a number", 7),
            ("null", None),
            ("unknown", "nonsense"),
        )
    ),
    _order("would cut the link", {"type": "stop_module", "module_id": "websocket_communication"}),
    _order("would cut the link by its other name", {"type": "disable_module", "module_id": "communication"}),
    *(
        _order(
            f"settings {shown}", {"type": "configure_module", "module_id": "telemetry", "settings": settings}
        )
        for shown, settings in (
            ("an array", [1]),
            ("empty", {}),
            ("of the wrong type", {"interval_s": [1]}),
            ("a word for a number", {"interval_s": "soon"}),
            ("out of range", {"interval_s": -1}),
            ("true for a number", {"interval_s": True}),
            ("unknown", {"nonsense": 1}),
            ("that are an order", {"enabled": False}),
            ("with a path", {"../log.level": "debug"}),
        )
    ),
    _policy("document missing", type="apply_policy"),
    _policy("document a number", type="apply_policy", document=7),
    _policy("document no YAML", type="apply_policy", document="a: [b"),
    _policy(
        "document of aliases", type="apply_policy", document="a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    ),
    _policy("document of another kind", type="apply_policy", document={"apiVersion": "v1", "kind": "Pod"}),
    _document("ports inverted", _ports(port=9, endPort=8)),
    _document("port 65536", _ports(port=65536)),
    _document("port negative", _ports(port=-1)),
    _document("protocol unknown", _ports(protocol="XYZ")),
    _document("host bits set", _cidr("10.0.0.1/8")),
    _document("prefix 33", _cidr("10.0.0.0/33")),
    _document("IPv6 for IPv4", _cidr("fd00::/129")),
    _document("expiry", _cidr("10.0.0.0/8"), expiresAt="2020-01-01T00:00:00Z"),
    _document("rules a word", "deny"),
    _policy("an artifact behind a URL", action="deploy", policy_id="p", artifact={"url": "http://x/"}),
    _policy("a bad address", action="deploy_policy", policy_id="p", policy_config={"target": "10.9.8.777"}),
    _policy("a name with a path to remove", type="remove_policy", name="../../p"),
    _policy("a name to remove nobody gave", type="remove_policy", name="nobody"),
)

ACKS = (
    _ack("stream nobody has", "ignore", stream=1 << 40, next=5),
    _ack("beyond what was sent", "ignore", stream=1, next=1 << 50),
    _ack("class unknown", **{"class": "gossip"}),
    _ack("class missing", **{"class": None}),
    _ack("stream negative", stream=-1),
    _ack("next negative", next=-1),
    _ack("next 2^63", next=2**63),
    _ack("next a string", next="1"),
    _ack("another type", type="nack"),
)

TO_AGENT = (*AUTH, *REGISTRATION, *PUSHES, *ORDERS, *ACKS)

# Of the classes for both ends: an agent counts binary frames as refused, looks at no type of a gateway's frame, and leaves
# a gateway that does nothing but ping.
_OTHERWISE: dict[str, Rule] = {"binary for text": "refuse", "type unknown": "ignore", "1,000 pings": "close"}

AGENT_TABLE = (
    *(replace(bad, rule=_OTHERWISE.get(bad.name, bad.rule)) for bad in (*FRAMES, *JSON, *ENVELOPE, *PAYLOAD)),
    *TO_AGENT,
)
