"""Says that something about interfaces, addresses or routes changed; what, is read afresh (rtnetlink(7), groups)."""

from __future__ import annotations

import os
import socket
from typing import Self

from aegis.errors import HostError

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
_GROUPS = _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE
_ROUTE = 0
_READ_BYTES = 65_536


class NetworkChanges:
    """A socket of the caller's network namespace that becomes readable with each change. A context manager."""

    def __init__(self) -> None:
        """Raises HostError."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
        except OSError as error:
            raise HostError(f"open a netlink socket: {os.strerror(error.errno or 0)}") from error
        try:
            self._socket.settimeout(0)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            self._socket.close()
            raise HostError(f"listen to network changes: {os.strerror(error.errno or 0)}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take every message that waits; whether there was one. A queue that ran over counts as one."""
        found = False
        while True:
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS: more changed than was kept, which says the same
                pass
            found = True

    def close(self) -> None:
        """Twice is harmless."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
