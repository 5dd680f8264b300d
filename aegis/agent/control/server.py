"""The control socket: one connection a client, requests answered side by side, none able to disturb another.

A frame that cannot be read gets a typed error and the connection goes on; one over the size cap ends it (close 1009).
The socket is 0660 for group aegis; changing verbs ask for root by peer credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from aegis.agent.control import envelope, handshake
from aegis.agent.control.peers import Peer, peer_of
from aegis.agent.control.verbs import Verbs
from aegis.errors import AegisError, EnvelopeInvalid, PermissionDenied, StorageError
from aegis.runtime.module import Log

GROUP = "aegis"
MAX_CONNECTIONS = 64
OPENING = 16  # more that may be there and are no clients yet, or are being turned away
KEPT_FOR_ROOT = 8  # of the clients, and of all that are there
MAX_REQUESTS = 16  # of one connection at a time

_quiet = logging.getLogger("aegis.control")  # the library's own words about clients that speak nonsense
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class ControlServer:
    """Serves `verbs` on a unix socket. Make one with `open`; `close` ends every connection first."""

    def __init__(self, path: str, verbs: Verbs, log: Log, ready: Callable[[], bool] = lambda: True) -> None:
        self.path = path
        self.group_missing = False
        self.refused = 0  # frames answered with envelope_invalid
        self._verbs = verbs
        self._log = log
        self._ready = ready
        self._server: Server | None = None
        self._there: set[ServerConnection] = set()  # every connection, from the kernel's accept to its end
        self._handlers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. Raises StorageError where the socket cannot be made."""
        try:
            listener = self._bound()
            try:
                self._server = await unix_serve(
                    self._serve,
                    sock=listener,
                    create_connection=self._connection,
                    compression=None,
                    max_size=envelope.MAX_REQUEST_BYTES,
                    max_queue=4,
                    ping_interval=None,  # the kernel tells when a local peer is gone
                    close_timeout=0.5,
                    open_timeout=handshake.OPEN_S,
                    process_request=lambda *asked: handshake.probed(self._ready, *asked),
                    process_response=handshake.typed,
                    server_header=None,
                    logger=_quiet,
                )
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            text = error.strerror or str(error)  # a path too long for a socket has no errno
            raise StorageError(f"{self.path}: {text}", hint="choose another --run-dir") from error

    def _bound(self) -> socket.socket:
        """The socket at its place with its mode, before anybody can connect.

        The mask is the whole process's and modules start meanwhile: nothing is awaited while it is set.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # of an agent that was killed: this one holds the run directory's lock
            before = os.umask(0o177)
            try:
                listener.bind(self.path)
            finally:
                os.umask(before)
            try:
                os.chown(self.path, -1, grp.getgrnam(GROUP).gr_gid)
                os.chmod(self.path, 0o660)
            except KeyError:
                self.group_missing = True
        except BaseException:
            listener.close()
            raise
        return listener

    def _connection(self, *arguments: Any, **options: Any) -> ServerConnection:
        return _Connection(self._there, *arguments, **options)

    async def close(self) -> None:
        """Cancel every connection's work, then stop listening: the library's exit waits for live handlers."""
        if self._server is None:
            return
        for handler in tuple(self._handlers):
            handler.cancel()
        for connection in tuple(self._there):
            if (
                connection.state is State.CONNECTING
            ):  # says nothing, and would be waited for until its time is out
                connection.transport.abort()
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        await self._server.wait_closed()
        self._server = None

    @property
    def connections(self) -> int:
        return len(self._handlers)

    async def _serve(self, connection: ServerConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = peer_of(connection.transport.get_extra_info("socket"))
        room = _room(MAX_CONNECTIONS, peer)
        if len(self._handlers) >= room:
            await connection.close(1013, f"{room} clients are connected")
            return
        self._handlers.add(task)
        try:
            async with asyncio.TaskGroup() as group:
                running: set[asyncio.Task[None]] = set()
                try:
                    async for frame in connection:
                        await self._take(frame, connection, peer, group, running)
                except ConnectionClosed:  # not by a close frame: cut, or closed here for breaking the rules
                    pass
                finally:
                    for one in running:
                        one.cancel()
        except asyncio.CancelledError:
            await connection.close(1001, "the agent stops")
            raise
        finally:
            self._handlers.discard(task)

    async def _take(
        self,
        frame: str | bytes,
        connection: ServerConnection,
        peer: Peer,
        group: asyncio.TaskGroup,
        running: set[asyncio.Task[None]],
    ) -> None:
        try:
            request = envelope.read(frame)
        except EnvelopeInvalid as error:
            self.refused += 1
            await _send(connection, envelope.error(envelope.id_of(frame), error))
            return
        if len(running) >= MAX_REQUESTS:
            busy = EnvelopeInvalid(f"{MAX_REQUESTS} requests of this connection are being answered")
            await _send(connection, envelope.error(request.id, busy))
            return
        task = group.create_task(self._answer(request, connection, peer))
        running.add(task)
        task.add_done_callback(running.discard)

    async def _answer(self, request: envelope.Request, connection: ServerConnection, peer: Peer) -> None:
        """One request to its end. A failure is an answer; only a closed connection ends it silently."""
        try:
            verb, stream = self._verbs.find(request.verb, request.args)
            order = verb.changes_with(request.args)
            if order and not peer.may_change:
                raise PermissionDenied(
                    f"{verb.name} is for root, and uid {peer.uid} asked", hint="run the command as root"
                )
            if order:
                self._log.info("order", verb=verb.name, uid=peer.uid, pid=peer.pid)
            async with contextlib.aclosing(stream(request.args)) as items:
                async for item in items:
                    await connection.send(envelope.item(request.id, item), text=True)
            await connection.send(envelope.end(request.id), text=True)
        except ConnectionClosed:
            return
        except AegisError as error:
            await _send(connection, envelope.error(request.id, error))
        except Exception as error:  # noqa: BLE001  a bug of ours in one verb is that verb's answer and a log line
            self._log.error("verb failed", verb=request.verb, error=repr(error))
            await _send(
                connection, envelope.error(request.id, AegisError(f"{type(error).__name__}: {error}"))
            )


class _Connection(handshake.AnsweringConnection):
    """A connection that is counted from its first moment: one that never says a word holds a descriptor as well."""

    def __init__(self, there: set[ServerConnection], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._there = there

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("socket"))
        if len(self._there) >= _room(MAX_CONNECTIONS + OPENING, peer):
            cast("asyncio.Transport", transport).abort()
        else:
            self._there.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self)
        super().connection_lost(exc)


def _room(places: int, peer: Peer) -> int:
    """How many of the places one like this peer may fill."""
    return places if peer.may_change else places - KEPT_FOR_ROOT


async def _send(connection: ServerConnection, frame: bytes) -> None:
    with contextlib.suppress(ConnectionClosed):
        await connection.send(frame, text=True)
