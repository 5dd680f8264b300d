from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis.errors import ConfigError, NotBuilt, PermissionDenied
from aegis.gateway.limits import DEFAULT, Limits
from aegis.gateway.options import GatewayOptions, agent_command, check


def options(**given: Any) -> GatewayOptions:
    return GatewayOptions(data_dir="/nowhere", **given)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"store": "postgresql://u:secret@h/d"}, NotBuilt, "postgresql"),
        ({"store": "sqlite:///x"}, NotBuilt, "sqlite"),
        ({"bus": "nats://u:secret@h"}, NotBuilt, "nats"),
        ({"tls_cert": "a"}, ConfigError, "both or none"),
        ({"tls_cert": "/no/cert", "tls_key": "/no/key"}, ConfigError, "/no/cert"),
        ({"actions_listen": ("0.0.0.0", 8083)}, PermissionDenied, "0.0.0.0"),
        ({"actions_listen": ("::", 8083)}, PermissionDenied, "::"),
        ({"actions_listen": ("host.example", 8083)}, PermissionDenied, "host.example"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        check(options(**given))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_most_agents_are_one_of_the_caps() -> None:
    assert options().caps == DEFAULT
    given = options(most_agents=7, limits=Limits(idle_s=5.0)).caps
    assert (given.agents, given.idle_s) == (7, 5.0)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("not PEM")
    with pytest.raises(ConfigError):
        check(options(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key")))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"actions_listen": ("127.9.9.9", 1)},
        {"actions_listen": ("::1", 1)},
        {"actions_listen": ("localhost", 1)},
        {"actions_listen": None, "listen": ("0.0.0.0", 1)},
        {"actions_listen": ("0.0.0.0", 1), "insecure": True},
    ],
)
def test_what_can_be(given: dict[str, Any]) -> None:
    assert check(options(**given)) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "ws://127.0.0.1:9"),
        ({"listen": ("::1", 0)}, "ws://[::1]:9"),
        ({"listen": ("0.0.0.0", 0)}, "ws://THIS-HOST:9"),
        ({"tls_cert": "c", "tls_key": "k"}, "wss://127.0.0.1:9"),
        ({"advertise": "wss://gw.example:443"}, "wss://gw.example:443"),
    ],
)
def test_the_command_to_paste_is_one_the_agent_takes(given: dict[str, Any], url: str) -> None:
    from aegis.agent.arguments import parse

    words = agent_command(options(**given), 9).split()
    assert words[0] == "aegis-agent"
    parsed = parse(words[1:])
    assert (parsed.gateway_url, parsed.protocol) == (url, "v1")
