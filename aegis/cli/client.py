"""The tool's end of the control socket: one request, a stream of items.

Messages are JSON: `{id, verb, args}` out; `{id, item}`..., then `{id, end}` or `{id, error}` back.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from aegis.errors import AegisError, ConnectFailed, ConnectionLost

# A policy document travels in one message.
MAX_MESSAGE_BYTES = 4 << 20
TRY_AGAIN_LATER = 1013  # how the agent closes what is one connection too many


class AgentError(AegisError):
    """The agent answered with an error; `code` is the agent's."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("text", "")), hint=answer.get("hint"))
        self.code = str(answer.get("code", "aegis_error"))
        self.answer = answer


def request(
    socket_path: str, verb: str, args: dict[str, Any] | None = None, *, timeout_s: float | None = None
) -> Generator[dict[str, Any]]:
    """Yield the items the agent answers to one verb.

    `timeout_s` bounds the wait for each next item; None waits for ever (a followed stream).
    Raises ConnectFailed when nobody listens, ConnectionLost when the agent goes away before the
    end, AgentError with the agent's own code, TimeoutError.
    """
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import unix_connect

    try:
        connection = unix_connect(
            socket_path,
            "ws://localhost/",
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=5,
            close_timeout=1,
            ping_interval=None,
        )
    except PermissionError as error:
        text = f"may not open {socket_path}"
        raise AgentError(
            {"code": "permission_denied", "text": text, "hint": "run as root or join the group aegis"}
        ) from error
    except (ConnectionClosed, InvalidHandshake, ConnectionResetError, BrokenPipeError) as error:
        raise full(f"somebody listens at {socket_path}, and hung up: {error}") from error
    except OSError as error:
        hint = "start it with `aegis-agent`, or name its socket with --socket"
        raise ConnectFailed(f"no agent answers at {socket_path}: {error}", hint=hint) from error
    with connection:
        message: str | None = json.dumps({"id": 1, "verb": verb, "args": args or {}})
        while True:
            try:
                if message is not None:  # an agent with too many clients closes before it has read anything
                    connection.send(message)
                    message = None
                answer = json.loads(connection.recv(timeout=timeout_s))
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == TRY_AGAIN_LATER:
                    raise full(f"the agent at {socket_path} refused: {error.rcvd.reason}") from error
                raise ConnectionLost(f"the agent closed the connection: {error}") from error
            if "error" in answer:
                raise AgentError(answer["error"])
            if "end" in answer:
                return
            yield answer["item"]


def full(text: str) -> ConnectFailed:
    """There is an agent, and it has no place for us."""
    return ConnectFailed(
        f"too many connections: {text}",
        hint="end some of them, each `aegis events -f` is one (ss -xp shows who), or ask again as root: "
        "some places are kept for root",
    )


def request_one(
    socket_path: str, verb: str, args: dict[str, Any] | None = None, *, timeout_s: float = 30.0
) -> dict[str, Any]:
    """The single item a verb answers with."""
    for item in request(socket_path, verb, args, timeout_s=timeout_s):
        return item
    raise ConnectionLost(f"the agent answered nothing to {verb}")
