"""The queueing discipline that older set-ups give an interface for its incoming packets."""

from __future__ import annotations

import socket
import struct

from aegis.host.netlink import CREATE, EXCLUSIVE, text
from aegis.host.rtnetlink import RouteSocket

_NEW, _DELETE = 36, 37
_PARENT = 0xFFFFFFF1
_HANDLE = 0xFFFF0000


def place_ingress_qdisc(netlink: RouteSocket, index: int) -> None:
    """As `tc qdisc add dev NAME ingress`."""
    netlink.change("add an ingress qdisc", _NEW, _message(index), CREATE | EXCLUSIVE)


def remove_ingress_qdisc(netlink: RouteSocket, index: int) -> None:
    """As `tc qdisc del dev NAME ingress`."""
    netlink.change("remove the ingress qdisc", _DELETE, _message(index))


def _message(index: int) -> bytes:
    head = struct.pack("=BxxxiIII", socket.AF_UNSPEC, index, _HANDLE, _PARENT, 0)
    return head + text(1, "ingress")
