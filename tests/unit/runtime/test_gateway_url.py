from __future__ import annotations

import pytest

from aegis.runtime.gateway_url import parse, problem


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("ws://localhost:8080", "ws://localhost:8080/ws/agent"),
        ("ws://localhost:8080/", "ws://localhost:8080/ws/agent"),
        ("ws://localhost:8080/ws/agent", "ws://localhost:8080/ws/agent"),
        ("wss://gw.example.com", "wss://gw.example.com:443/ws/agent"),
        ("ws://10.77.0.2", "ws://10.77.0.2:80/ws/agent"),
        ("ws://[fd77::2]:8080/elsewhere", "ws://[fd77::2]:8080/elsewhere"),
        ("ws://websocket_gateway:8080", "ws://websocket_gateway:8080/ws/agent"),
    ],
)
def test_an_address_has_port_and_path(text: str, whole: str) -> None:
    found = parse(text)
    assert found is not None
    assert (found.text, problem(text)) == (whole, None)
    assert "[" not in found.host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:8080",
        "http://localhost:8080",
        "ws://",
        "ws://:8080",
        "ws://host:0",
        "ws://host:65536",
        "ws://host:x",
        "ws://user@host",
        "ws://user:secret@host",
        "ws://host/path?token=1",
        "ws://host/a b",
        "ws://host\n",
        "ws://h\u00f6st",
        "ws://-host",
        "ws://fd77::2",
        "ws://[fd77::2",
        "ws://[.]",
        "ws://[abc]",
    ],
)
def test_anything_else_is_named_as_none(text: str) -> None:
    assert parse(text) is None
    assert "must be ws://HOST:PORT" in (problem(text) or "")
