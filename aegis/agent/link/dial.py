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
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State

from aegis.agent.link.complaints import escaped
from aegis.errors import ConnectFailed, GatewayRefused
from aegis.runtime.gateway_url import GatewayUrl

USER_AGENT = "Aegis-Agent/1.0"  # deployed gateways refuse any other
MAX_FRAME_BYTES = 1 << 20
OPEN_S = 10.0
CLOSE_S = 0.5
WRITE_BYTES = 64 << 10  # a sender waits above this; what is more urgent then overtakes at the next frame
UNSENT_BYTES = 128 << 10  # the same for what the kernel holds
SHOWN = 200  # characters of a refusal
READ_BYTES = 16 << 10  # at once: 8,000 of the smallest frames, which are taken without a pause
PIECE_BYTES = 1 << 10
MOST_CONTROLS = 100  # pings and pongs a second; a gateway has reason for one
MOST_FRAGMENTS = 4096  # of one message
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


async def dial(url: GatewayUrl, headers: Mapping[str, str], ca: str | None) -> Connection:
    """An open connection. Raises ConnectFailed, or GatewayRefused where somebody answered and said no.

    `headers` are those of the agent; the proxy variables of the environment are not read and redirects not followed.
    """
    options: dict[str, Any] = {"ssl": _tls(url, ca)} if url.secure else {}
    try:
        connection = await _Connect(
            url.text,
            create_connection=Connection,
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
    except (
        OSError,
        EOFError,
        WebSocketException,
        LookupError,
        ValueError,
    ) as error:  # a name that is none, too
        raise ConnectFailed(
            f"{url.text}: {_words(error)}", hint="is the gateway up, and the address right?"
        ) from error
    tune(connection.transport.get_extra_info("socket"))
    assert isinstance(connection, Connection)
    return connection


class Connection(ClientConnection):
    """The library answers pings as it reads them: who sends too many has the loop to itself, and is left."""

    _controls = 0
    _controls_since = 0.0
    _fragments = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES

    def offer(self, text: str | bytearray) -> bool:
        """Write a text frame at once where nothing is in the way; else False, and `send` is what waits.

        The same as `send` without the contexts around it, which cost more than the frame.
        """
        if self.paused or self.protocol.state is not State.OPEN or self.transport.is_closing():
            return False
        self.protocol.send_text(text.encode() if isinstance(text, str) else text)
        self.send_data()
        return True

    def data_received(self, data: bytes) -> None:
        """In pieces, so that what comes behind too many frames is not looked at."""
        for at in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + PIECE_BYTES])

    def process_event(self, event: Event) -> None:
        super().process_event(event)
        if not isinstance(event, Frame):
            return
        if event.opcode in {Opcode.PING, Opcode.PONG}:
            now = self.loop.time()
            if now - self._controls_since >= 1:
                self._controls, self._controls_since = 0, now
            self._controls += 1
        elif event.opcode is not Opcode.CLOSE:
            self._fragments = 0 if event.fin else self._fragments + 1
        if self._controls > MOST_CONTROLS:
            self._leave("too many pings")
        elif self._fragments > MOST_FRAGMENTS:
            self._leave("a message of too many fragments")

    def _leave(self, reason: str) -> None:
        self.protocol.fail(CloseCode.POLICY_VIOLATION, reason)
        self.send_data()
        self.transport.abort()


class _Connect(connect):
    """Without redirects: a peer that is not trusted does not choose whom the agent talks to."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def tune(connected: socket.socket | Any | None) -> None:
    """Have the kernel find out about a dead peer. A socket that takes an option not at all keeps the pings' deadline."""
    if connected is None:  # over already; who reads is told
        return
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
    said = bytes(response.body or b"")[: 4 * SHOWN].decode("utf-8", "replace").strip()
    text = f"{url.text}: {response.status_code} {escaped(said or response.reason_phrase, SHOWN)}"
    after = "".join(response.headers.get_all("Retry-After")[:1])
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
    text = str(error) or (str(cause) if cause is not None else "") or type(error).__name__
    return escaped(text, SHOWN)
