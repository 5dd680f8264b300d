from __future__ import annotations

from typing import Any

import pytest

from aegis.agent.link.choice import choose
from aegis.errors import NotBuilt
from aegis.runtime.settings import Settings


def gateway(**values: Any) -> Settings:
    return Settings(
        "gateway",
        {"url": "ws://gw:8080", "protocol": "auto", "min_protocol": None, "ca": None, "reregister": None}
        | values,
    )


def test_without_an_address_there_is_no_gateway() -> None:
    assert choose(gateway(url=None)) is None


@pytest.mark.parametrize(
    ("protocol", "floor", "said"),
    [
        ("auto", None, "gateway.min_protocol is 2 by default"),
        ("auto", 1, None),
        ("auto", 2, "gateway.min_protocol is 2, and"),
        ("v1", None, None),
        ("v1", 1, None),
        ("v1", 2, "gateway.min_protocol is 2, and"),
        ("v2", None, "protocol v2 is not built yet"),
        ("v2", 1, "protocol v2 is not built yet"),
        ("v2", 2, "protocol v2 is not built yet"),
    ],
)
def test_v1_is_spoken_only_where_it_was_asked_for(protocol: str, floor: int | None, said: str | None) -> None:
    found = choose(gateway(protocol=protocol, min_protocol=floor))
    assert found is not None
    if said is None:
        assert found.refusal is None
    else:
        assert isinstance(found.refusal, NotBuilt)
        assert said in str(found.refusal)
        assert "gateway.min_protocol = 1" in (found.refusal.hint or "")


def test_the_rest_is_handed_on() -> None:
    found = choose(gateway(min_protocol=1, ca="/etc/ca.pem", reregister=False))
    assert found is not None
    assert (found.url.text, found.ca, found.reregister) == ("ws://gw:8080/ws/agent", "/etc/ca.pem", False)
