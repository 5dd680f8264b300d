"""Who is at the other end of a unix socket, as the kernel says (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, Protocol

import msgspec

_UCRED = struct.Struct("iII")


class HasOptions(Protocol):
    def getsockopt(self, level: int, option: int, size: int, /) -> Any: ...


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The process that connected, as it was then."""

    pid: int
    uid: int
    gid: int

    @property
    def may_change(self) -> bool:
        """Changing verbs are root's, and the agent's own user's."""
        return self.uid in {0, os.geteuid()}


def peer_of(connection: HasOptions) -> Peer:
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid=pid, uid=uid, gid=gid)
