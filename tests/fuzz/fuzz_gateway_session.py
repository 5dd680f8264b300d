"""A script of what a peer and a driver do to the gateway's end of a session: every frame is taken or refused in order.

Each line is a step, `WORD REST`:

    auth JSON, reg JSON, done JSON   the handshake of a deployed agent; members are laid over those it sends
    say CHANNEL TEXT                 TEXT, packed, on that channel; covered by the key where the agent is one of ours
    frame TEXT, bin TEXT             a text frame or a binary one
    tick SECONDS, alive, gone, refuse, push JSON, ack NUMBER   what a driver does
    deny, fail, hold                 the driver turns away the next that is proven, cannot store it, or takes its time
    store                            what was held is stored
    with JSON                        first line: headers of the upgrade and members of GatewayLimits

Not reached: SessionMisused, which is for mistakes of a driver and not for what a peer sends.
"""

from __future__ import annotations

import base64
import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/gateway.py",
    "aegis/protocol/registration.py:complete",
    "aegis/protocol/coverage.py",
    "aegis/protocol/authentication.py:wrong",
    "aegis/protocol/channels.py:split_up",
)
LIMITS = {
    "attempts": (1, 9),
    "errors": (1, 99),
    "registrations": (1, 9),
    "idle_s": (1, 99),
    "skew_s": (1, 999),
}
STEPS = 64


def members(text: str) -> dict[str, Any]:
    """The object that a step names; empty where it is none. As the wire has it: no half of a surrogate pair in it."""
    import msgspec

    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


@functools.cache
def signing() -> Any:
    from aegis.protocol.crypto import Signer

    return Signer(bytes(range(32)))


class Script:
    """One run over one session."""

    def __init__(self, shared: Any, session: Any, agent: Any) -> None:
        self.shared, self.session, self.agent = shared, session, agent
        self.seconds = 0
        self.deny = self.fail = self.hold = self.proven = self.stored = False
        self.held: Any = None
        self.offer = {"registration_id": "r", "nonce": "", "server_time": ""}

    def step(self, word: str, rest: str) -> None:
        from aegis.model.block import BlockClass
        from aegis.protocol.gateway import Phase
        from tests.support.sessions import SECOND, WALL

        now_ns, wall_s = self.seconds * SECOND, WALL + self.seconds
        session = self.session
        match word:
            case "deny" | "fail" | "hold":
                setattr(self, word, True)
            case "tick":
                self.seconds += min(int(rest), 10_000) if rest.isascii() and rest.isdecimal() else 1
                self.heard(session.tick(self.seconds * SECOND))
            case "store":
                if self.held is not None and session.phase is not Phase.CLOSED:
                    self.store(wall_s)
            case "alive":
                session.alive(now_ns)
            case "gone":
                session.gone()
            case "refuse":
                if session.phase not in {Phase.NEW, Phase.CLOSED}:
                    self.heard(session.refuse("no", rest, wall_s))
            case "push" | "ack":
                if session.phase is Phase.REGISTERED:
                    sent = (
                        session.push("backend.modules", members(rest), message_id="m", wall_s=wall_s)
                        if word == "push"
                        else session.acknowledge(len(rest), BlockClass.EVENT, len(rest), wall_s)
                    )
                    assert self.agent.take(sent) is not None or not self.agent.gateway_key
            case _:
                frame = self.frame(word, rest, wall_s)
                self.heard(session.receive(frame, now_ns, wall_s))
        self.answered()

    def frame(self, word: str, rest: str, wall_s: int) -> str | bytes:
        from aegis.protocol import envelope
        from aegis.protocol.coverage import cover

        agent = self.agent
        match word:
            case "auth":
                said = members(rest)
                stamp = said.pop("timestamp", wall_s)
                said.pop("self", None)
                return str(agent.authentication(stamp, said.pop("nonce", None), **said))
            case "reg":
                said = members(rest)
                said.pop("self", None)
                return str(agent.registration(**said))
            case "done":
                return str(
                    agent.frame("request", "agent.registration.complete", self.completion() | members(rest))
                )
            case "say":
                channel, _, text = rest.partition(" ")
                payload = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
                headers = cover(signing(), "i", "event", channel, wall_s, "n", payload)
                return envelope.write(
                    identity="i", kind="event", channel=channel, payload=payload, timestamp=wall_s,
                    nonce="n", headers=headers,
                )  # fmt: skip
            case "bin":
                return rest.encode("utf-8", "surrogatepass")
        return rest

    def completion(self) -> dict[str, Any]:
        offer = self.offer
        signed = base64.b64decode(offer["nonce"]) + offer["server_time"].encode() + b"host-1"
        signature = base64.b64encode(signing().sign(signed)).decode()
        return {"registration_id": offer["registration_id"], "host_id": "host-1", "signature": signature}

    def heard(self, happened: list[Any]) -> None:
        from aegis.protocol import gateway_happenings as told
        from tests.support.sessions import SECOND, WALL

        now_ns, wall_s = self.seconds * SECOND, WALL + self.seconds
        for each in happened:
            if isinstance(each, told.Authenticated):
                assert each.key == self.session.key == signing().public_key
                self.proven = True
                if self.deny:
                    self.deny = False
                    self.heard(self.session.turn_away("not now", wall_s))
                else:
                    uid, ours = self.shared.store.get(each.key, (None, False))
                    self.session.accept(uid, ours=ours, now_ns=now_ns, wall_s=wall_s)
            elif isinstance(each, told.RegistrationProven):
                assert self.proven
                if self.fail:
                    self.fail = False
                    self.heard(self.session.registration_failed("disk full", wall_s))
                elif self.hold:
                    self.hold, self.held = False, each
                else:
                    self.held = each
                    self.store(wall_s)
            elif isinstance(each, told.Batch | told.Answer | told.State | told.Ignored):
                assert self.stored
            elif isinstance(each, told.Closed):
                assert self.session.close_reason == each

    def store(self, wall_s: int) -> None:
        self.shared.store[self.held.key] = (self.held.uid, self.held.ours)
        self.held, self.stored = None, True
        self.session.registered(wall_s)

    def answered(self) -> None:
        """What the gateway sends can be read by a deployed agent, and never claims more than was proven."""
        from aegis.protocol.crypto import uid_of
        from aegis.protocol.gateway import Phase

        for frame in self.session.outgoing():
            said = json.loads(frame)
            assert len(base64.b64decode(said["nonce"])) == 12
            assert said["channel"] in {"auth", "error", "agent.registration", "agent.registration.complete"}
            if said["channel"] == "agent.registration":
                self.offer = json.loads(said["payload"])
            elif said["channel"] == "auth":
                answer = json.loads(base64.b64decode(said["payload"]))
                assert self.proven or not answer["success"]
                if answer["success"]:
                    self.agent.gateway_key = base64.b64decode(answer["backend_key"])
        if self.session.phase is Phase.REGISTERED:
            assert self.proven
            assert self.session.uid == uid_of(self.session.key)
        if self.session.phase is Phase.CLOSED:
            assert self.session.next_deadline() is None


def one(data: bytes) -> None:
    from aegis.protocol.gateway import GatewayLimits
    from aegis.protocol.registration import Registrations
    from aegis.protocol.replay import ReplayCache
    from tests.support.deployed import DeployedAgent
    from tests.support.sessions import Gateway

    lines = data.decode("utf-8", "replace").split("\n")[:STEPS]
    told = members(lines[0].removeprefix("with ")) if lines[0].startswith("with ") else {}
    limits = {
        name: told[name]
        for name, (least, most) in LIMITS.items()
        if type(told.get(name)) is int and least <= told[name] <= most
    }
    shared = Gateway(limits=GatewayLimits(**limits))
    if told.get("small"):  # so small that the oldest goes
        shared.replay = ReplayCache(capacity=1)
        shared.registrations = Registrations(entropy=shared.entropy, capacity=1)
    agent = DeployedAgent()
    headers = {"X-Agent-ID": "agent-56475aa75463474c"} if told.get("known") else {}
    session = shared.connect(agent.headers() | headers)
    if told.get("opened", True):
        session.opened(0)
    script = Script(shared, session, agent)
    if told.get("others"):  # another connection has begun a registration, and is there no more
        other = shared.connect(agent.headers())
        other.opened(0)
        shared.drive(other, agent.authentication())
        shared.drive(other, agent.registration())
    for line in lines:
        word, _, rest = line.partition(" ")
        script.step(word, rest)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("gateway_session")
