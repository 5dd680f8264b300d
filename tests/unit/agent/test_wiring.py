from __future__ import annotations

import socket

from aegis.agent.wiring import agent_id
from aegis.runtime.settings import Settings


def test_the_name_is_made_of_what_a_channel_may_hold() -> None:
    assert agent_id(Settings("agent", {"id": "host.example com/ü_1-2"})) == "host-example-com--_1-2"
    assert set(agent_id(Settings("agent", {"id": None}))) <= set(
        agent_id(Settings("agent", {"id": socket.gethostname()}))
    )
