"""Who an agent is."""

from __future__ import annotations

import pytest

from aegis.protocol.agent_identity import AgentIdentity
from tests.support.sessions import AGENT_SEED


@pytest.mark.parametrize("agent_id", ["", "a.b", "a b", "x" * 65, "a:b", "\u00e4"])
def test_an_id_that_v1_cannot_carry(agent_id: str) -> None:
    with pytest.raises(ValueError, match="agent id"):
        AgentIdentity(AGENT_SEED, agent_id)


def test_an_identity_says_nothing_of_its_seed() -> None:
    identity = AgentIdentity(b"SECRETSEED" * 3 + b"xx", "host-1")
    assert "SECRETSEED" not in f"{identity!r}{identity}"
