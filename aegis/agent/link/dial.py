"""Opens the WebSocket to a gateway: one try, typed failures, a socket that notices a dead peer by itself.

The kernel probes an idle connection after 5 s and gives up on a peer that acknowledges nothing for 12 s, whether bytes are
under way or not: a half-open connection is over within 15 s, and nobody here wakes for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, ProtocolError

from aegis.errors import ConnectFailed, GatewayRefused
from aegis.runtime.gateway_url import GatewayUrl

USER_AGENT = "Aegis-Agent/1.0"  # deployed gateways refuse any other
MAX_FRAME_BYTES = 1 << 20
OPEN_S = 10.0
CLOSE_S = 0.5
WRITE_BYTES = 64 << 10  # a sender waits above this; what is more urgent then overtakes at the next frame
UNSENT_BYTES = 128 << 10  # the same for what the kernel holds
SHOWN = 200  # characters of a refusal
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12_000),
    (socket.IPPROTO_TCP, 25, UNSENT_BYTES),  # TCP_NOTSENT_LOWAT, which this Python has no name for
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)

_quiet = logging.getLogger("aegis.link")  # the library's own words; ours are conditions and log lines
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


async def dial(url: GatewayUrl, headers: Mapping[str, str], ca: str | None) -> ClientConnection:
    """An open connection. Raises ConnectFailed, or GatewayRefused where somebody answered and said no.

    `headers` are those of the agent; the proxy variables of the environment are not read and redirects not followed.
    """
    options: dict[str, Any] = {"ssl": _tls(url, ca)} if url.secure else {}
    try:
        connection = await _Connect(
            url.text,
            additional_headers={name: value for name, value in headers.items() if name != "User-Agent"},
            user_agent_header=USER_AGENT,
            compression=None,
            proxy=None,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
            ping_interval=None,  # the session pings with its heartbeats
            max_size=MAX_FRAME_BYTES,
            max_queue=16,
            write_limit=WRITE_BYTES,
            logger=_quiet,
            **options,
        )
    except InvalidStatus as error:
        raise _refusal(url, error) from error
    except ssl.SSLCertVerificationError as error:
        raise GatewayRefused(
            f"{url.text}: its certificate is not good: {error.verify_message}",
            hint="gateway.ca or --ca names the CA file it is judged by",
        ) from error
    except (OSError, EOFError, InvalidHandshake, ProtocolError, TimeoutError) as error:
        raise ConnectFailed(
            f"{url.text}: {_words(error)}", hint="is the gateway up, and the address right?"
        ) from error
    tune(connection.transport.get_extra_info("socket"))
    return connection


class _Connect(connect):
    """Without redirects: a peer that is not trusted does not choose whom the agent talks to."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def tune(connected: socket.socket | Any) -> None:
    """Have the kernel find out about a dead peer. A socket that takes an option not at all keeps the pings' deadline."""
    for level, option, value in _SOCKET_OPTIONS:
        try:
            connected.setsockopt(level, option, value)
        except OSError:
            continue


def _tls(url: GatewayUrl, ca: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise GatewayRefused(
            f"{url.text}: the CA file {ca} cannot be used: {_words(error)}",
            hint="gateway.ca or --ca names it",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _refusal(url: GatewayUrl, error: InvalidStatus) -> ConnectFailed | GatewayRefused:
    response = error.response
    said = bytes(response.body or b"")[: 4 * SHOWN].decode("utf-8", "replace").strip()[:SHOWN]
    text = f"{url.text}: {response.status_code} {said or response.reason_phrase}"
    after = response.headers.get("Retry-After", "")
    retry_s = float(after) if after.isascii() and after.isdecimal() and len(after) <= 5 else None
    if response.status_code >= 500 or response.status_code == 429:
        return ConnectFailed(
            text, hint="the gateway is there and has no room, or is starting", retry_s=retry_s
        )
    return GatewayRefused(text, hint="is this the gateway's address and port for agents?", retry_s=retry_s)


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {OPEN_S:g} s"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None:
        return (
            os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
        )  # a look-up's are negative
    cause = error.__cause__
    return str(error) or (str(cause) if cause is not None else "") or type(error).__name__
