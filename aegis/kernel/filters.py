"""A clsact hook and its filters as the kernel lists them: dumps by rtnetlink, which libbpf has no call for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aegis.errors import KernelError

RTM_NEWQDISC: Final = 36
RTM_GETQDISC: Final = 38
RTM_NEWTFILTER: Final = 44
RTM_GETTFILTER: Final = 46
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
TCA_KIND: Final = 1
TCA_OPTIONS: Final = 2
TCA_BPF_NAME: Final = 7
TCA_BPF_ID: Final = 11
HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
MESSAGE: Final = struct.Struct("=BxHiIII")  # struct tcmsg
ATTRIBUTE: Final = struct.Struct("=HH")
PARENT_CLSACT: Final = 0xFFFFFFF1  # that of an ingress qdisc too
PARENT_INGRESS: Final = 0xFFFFFFF2
PARENT_EGRESS: Final = 0xFFFFFFF3


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter. `program_id` is 0 for a filter that is no BPF program."""

    handle: int
    priority: int
    program_id: int
    name: str


def list_filters(ifindex: int, *, egress: bool) -> tuple[Filter, ...]:
    """Every filter on one direction of an interface's clsact hook; none where there is no such hook."""
    parent = PARENT_EGRESS if egress else PARENT_INGRESS
    found = []
    for message in _dump("list filters of", RTM_GETTFILTER, RTM_NEWTFILTER, ifindex, parent):
        handle, _, info = MESSAGE.unpack_from(message)[3:6]
        if handle:  # 0: the head of a priority, not a filter
            found.append(_filter(handle, info >> 16, message[MESSAGE.size :]))
    return tuple(found)


def hook_kind(ifindex: int) -> str:
    """What stands where an interface's clsact belongs: `clsact`, `ingress`, or nothing ("")."""
    for message in _dump("list queueing disciplines of", RTM_GETQDISC, RTM_NEWQDISC, ifindex, 0):
        index, _, parent = MESSAGE.unpack_from(message)[2:5]
        if (index, parent) == (ifindex, PARENT_CLSACT):  # the kernel lists those of every interface
            kind = dict(_attributes(message[MESSAGE.size :])).get(TCA_KIND, b"")
            return kind.rstrip(b"\0").decode(errors="replace")
    return ""


def _dump(operation: str, ask: int, wanted: int, ifindex: int, parent: int) -> Iterator[bytes]:
    """The payloads of the messages of kind `wanted`: a struct tcmsg and its attributes."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as netlink:
        netlink.bind((0, 0))
        body = MESSAGE.pack(socket.AF_UNSPEC, 0, ifindex, 0, parent, 0)
        netlink.send(HEADER.pack(HEADER.size + len(body), ask, REQUEST_DUMP, 1, 0) + body)
        while True:
            data = netlink.recv(65_536)
            at = 0
            while at + HEADER.size <= len(data):
                length, kind, _, _, _ = HEADER.unpack_from(data, at)
                payload = data[at + HEADER.size : at + length]
                at += (length + 3) & ~3
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    raise KernelError(operation, f"interface {ifindex}", number)
                if kind == wanted:
                    yield payload


def _filter(handle: int, priority: int, attributes: bytes) -> Filter:
    options = dict(_attributes(dict(_attributes(attributes)).get(TCA_OPTIONS, b"")))
    return Filter(
        handle=handle,
        priority=priority,
        program_id=int.from_bytes(options.get(TCA_BPF_ID, b"\0")[:4], "little"),
        name=options.get(TCA_BPF_NAME, b"").rstrip(b"\0").decode(errors="replace"),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield (
            kind & 0x3FFF,
            data[at + ATTRIBUTE.size : at + length],
        )  # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
        at += (length + 3) & ~3
