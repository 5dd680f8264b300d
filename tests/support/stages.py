"""One deployed peer in front of one of ours, step by step."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from aegis.protocol.agent import AgentSession, Phase
from aegis.protocol.gateway import GatewayLimits, GatewaySession
from tests.support.deployed import DeployedAgent, DeployedGateway
from tests.support.sessions import WALL, Gateway, agent_session

UID = "agent-56475aa75463474c"  # of the agent's seed
BOOT = bytes(range(16))
GATEWAY = DeployedGateway()


class Stage:
    """A deployed agent at our gateway. `headers` are laid over those it sends."""

    def __init__(
        self,
        agent: DeployedAgent | None = None,
        shared: Gateway | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **limits: Any,
    ) -> None:
        self.agent = agent or DeployedAgent()
        self.shared = shared or Gateway(limits=GatewayLimits(**limits))
        self.session: GatewaySession = self.shared.connect(self.agent.headers() | dict(headers or {}))
        self.session.opened(0)

    def say(self, frame: str | bytes) -> list[Any]:
        return list(self.shared.drive(self.session, frame))

    def heard(self) -> list[str]:
        return self.session.outgoing()

    def authenticate(self) -> Stage:
        self.say(self.agent.authentication())
        self.agent.take_auth(*self.heard())
        return self

    def register_now(self) -> Stage:
        self.say(self.agent.registration())
        self.say(self.agent.completion(self.agent.take_offer(*self.heard())))
        self.agent.take_reply(*self.heard())
        return self

    def register(self) -> Stage:
        return self.authenticate().register_now()


def opened(**changed: Any) -> AgentSession:
    """An agent of ours that waits for the answer to its authentication, of a deployed gateway."""
    session = agent_session(**({"registration_delay_s": 0} | changed))
    session.opened(0, WALL)
    session.outgoing()
    return session


def up(**changed: Any) -> AgentSession:
    """The same, registered."""
    session = opened(**changed)
    for frame in (GATEWAY.auth(), GATEWAY.offer(), GATEWAY.reply()):
        session.receive(frame, 0, WALL)
    assert session.phase is Phase.UP
    session.outgoing()
    return session


def push(session: AgentSession, channel: str, message: object) -> str:
    """A deployed gateway's push to it."""
    return GATEWAY.push(session.public_key, channel, message)


def inner(frame: str | bytearray) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(frame)["payload"])))


def codes(happened: Iterable[Any]) -> list[str]:
    """Codes of the frames that were refused."""
    return [each.code for each in happened if type(each).__name__ == "Refused"]


def error_of(frame: str) -> str:
    """The text of an error frame that is well made, and that no deployed agent dies of."""
    said = json.loads(frame)
    assert said["channel"] == "error"
    body = json.loads(said["payload"])
    assert (body["error"], body["code"], body["retry_after"]) == ("message_processing_error", 4002, 1)
    assert len(base64.b64decode(said["nonce"])) == 12
    return str(body["message"])
