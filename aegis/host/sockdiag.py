"""TCP sockets by state, counted by the kernel's socket lists (NETLINK_SOCK_DIAG), not by walking processes.

Layout: linux/inet_diag.h. Only the state byte of each socket is looked at.
"""

from __future__ import annotations

import socket
import struct
import sys

from aegis.errors import HostError
from aegis.host.netlink import DUMP, REQUEST, SOCK_DIAG, Netlink, failed

# include/net/tcp_states.h, from 1 on. SYN-ACK requests are listed as syn_received.
STATES = (
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)
_NEW_SYN_RECEIVED = 12
_SYN_RECEIVED = 3
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = struct.Struct("=BBBBI48s")
_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
_ORDER = sys.byteorder
_ALL_STATES = 0x1FFE  # 1 to 12; newer kernels would list sockets that are only bound under 13


class SocketCounts(Netlink):
    """Counts sockets of the network namespace it was opened in. Errors as in Netlink."""

    def __init__(self) -> None:
        super().__init__(SOCK_DIAG)

    def tcp(self) -> dict[str, int]:
        """Number of TCP sockets by state, every state named."""
        counts = [0] * 256
        for family in (socket.AF_INET, socket.AF_INET6):
            self._count(family, counts)
        counts[_SYN_RECEIVED] += counts[_NEW_SYN_RECEIVED]
        return {state: counts[number] for number, state in enumerate(STATES, start=1)}

    def _count(self, family: int, counts: list[int]) -> None:
        """One dump, counted message by message without an object for each: a host may have 100,000 sockets."""
        operation = "count TCP sockets"
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES, b"\0" * 48)
        sequence = self.send(operation, _BY_FAMILY, request, REQUEST | DUMP)
        unpack = _HEADER.unpack_from
        while True:
            data = self.datagram(operation)
            offset, end = 0, len(data)
            while end - offset >= 16:
                length, kind, _, answered, _ = unpack(data, offset)
                if not 16 <= length <= end - offset:
                    raise HostError(f"{operation}: message of {length} bytes where {end - offset} are left")
                if answered == sequence:
                    if kind == _BY_FAMILY and length >= 18:
                        counts[data[offset + 17]] += 1
                    elif kind == _DONE:
                        return
                    elif kind == _ERROR:
                        raise failed(
                            operation, -int.from_bytes(data[offset + 16 : offset + 20], _ORDER, signed=True)
                        )
                offset += length + 3 & ~3
