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

from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from aegis.agent.control import envelope
from aegis.agent.control.peers import Peer, peer_of
from aegis.agent.control.verbs import Verbs
from aegis.errors import AegisError, EnvelopeInvalid, PermissionDenied, StorageError
from aegis.runtime.module import Log

GROUP = "aegis"
MAX_CONNECTIONS = 64
KEPT_FOR_ROOT = 8  # of them
MAX_REQUESTS = 16  # of one connection at a time

_quiet = logging.getLogger("aegis.control")  # the library's own words about clients that speak nonsense
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class ControlServer:
    """Serves `verbs` on a unix socket. Make one with `open`; `close` ends every connection first."""

    def __init__(self, path: str, verbs: Verbs, log: Log) -> None:
        self.path = path
        self.group_missing = False
        self.refused = 0  # frames answered with envelope_invalid
        self._verbs = verbs
        self._log = log
        self._server: Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. Raises StorageError where the socket cannot be made."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(
                    self.path
                )  # of an agent that was killed: the run directory is locked, so nobody uses it
            before = os.umask(0o177)
            try:
                self._server = await unix_serve(
                    self._serve,
                    self.path,
                    compression=None,
                    max_size=envelope.MAX_REQUEST_BYTES,
                    max_queue=4,
                    ping_interval=None,  # the kernel tells when a local peer is gone
                    close_timeout=0.5,
                    open_timeout=5,
                    server_header=None,
                    logger=_quiet,
                )
            finally:
                os.umask(before)
            os.chown(self.path, -1, grp.getgrnam(GROUP).gr_gid)
            os.chmod(self.path, 0o660)
        except KeyError:
            self.group_missing = True
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}", hint="choose another --run-dir") from error

    async def close(self) -> None:
        """Cancel every connection's work, then stop listening: the library's exit waits for live handlers."""
        if self._server is None:
            return
        for handler in tuple(self._handlers):
            handler.cancel()
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
        room = MAX_CONNECTIONS if peer.may_change else MAX_CONNECTIONS - KEPT_FOR_ROOT
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
            if verb.changes and not peer.may_change:
                raise PermissionDenied(
                    f"{verb.name} is for root, and uid {peer.uid} asked", hint="run the command as root"
                )
            if verb.changes:
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


async def _send(connection: ServerConnection, frame: bytes) -> None:
    with contextlib.suppress(ConnectionClosed):
        await connection.send(frame, text=True)
