"""The management path in the kernel: what no policy can cut. Two tables, of which one word says the one that holds."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from aegis._native import _system
from aegis.errors import MapFull, PolicyInvalid
from aegis.kernel import abi
from aegis.kernel.flows import FlowReader
from aegis.kernel.maps import Map
from aegis.kernel.policy_image import service_key
from aegis.model.net import MAPPED, Direction

_TABLES = {"tables": "aegis_management", "control": "aegis_control"}
MOST: Final = abi.enum("aegis_management_limits")["AEGIS_MANAGEMENT_ENTRIES"]
_FLAGS: Final = abi.enum("aegis_management_flag")
NEIGHBOURS: Final = _FLAGS["AEGIS_MANAGEMENT_NEIGHBOURS"]
PATH_MTU: Final = _FLAGS["AEGIS_MANAGEMENT_PATH_MTU"]
DHCP: Final = _FLAGS["AEGIS_MANAGEMENT_DHCP"]
DHCPV6: Final = _FLAGS["AEGIS_MANAGEMENT_DHCPV6"]
ALWAYS: Final = NEIGHBOURS | PATH_MTU | DHCP | DHCPV6
_VERSION: Final = abi.struct("aegis_control").offsets["management"]
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Managed:
    """Flows of one service between this host and one network; `direction` is their initiator's, `port` the one it opens to."""

    direction: Direction
    protocol: int
    network: str  # as ipaddress writes it
    port: int

    def pack(self) -> bytes:
        """`struct aegis_management_entry`."""
        network = ipaddress.ip_network(self.network)
        address, mask = network.network_address.packed, network.netmask.packed
        if network.version == 4:
            address, mask = MAPPED + address, b"\xff" * 12 + mask
        high, low = struct.unpack(">2Q", address)
        mask_high, mask_low = struct.unpack(">2Q", mask)
        return abi.pack(
            "aegis_management_entry",
            high=high,
            low=low,
            mask_high=mask_high,
            mask_low=mask_low,
            service=service_key(self.direction, self.protocol, self.port, fragment=False),
        )


def unpack(data: bytes) -> Managed:
    """The entry of a `struct aegis_management_entry`."""
    high, low, mask_high, mask_low, service, _ = struct.unpack("=4Q2I", data)
    address, bits = struct.pack(">2Q", high, low), (mask_high << 64 | mask_low).bit_count()
    network: Network = ipaddress.IPv6Network((address, bits))
    if address.startswith(MAPPED) and bits >= 96:
        network = ipaddress.IPv4Network((address[12:], bits - 96))
    return Managed(
        direction=Direction.INGRESS if service >> 25 & 1 else Direction.EGRESS,
        protocol=service >> 16 & 0xFF,
        network=str(network),
        port=service & 0xFFFF,
    )


def to_host(address: str, protocol: int, port: int) -> Managed:
    """What this host opens to one address."""
    return Managed(
        direction=Direction.EGRESS,
        protocol=protocol,
        network=str(ipaddress.ip_network(ipaddress.ip_address(address))),
        port=port,
    )


def parse_allowed(texts: Iterable[str]) -> tuple[Managed, ...]:
    """The entries of policy.management_allow: DIRECTION:PROTOCOL:NETWORK:PORT, an IPv6 network in brackets.

    Raises PolicyInvalid.
    """
    return tuple(_parse(text, f"policy.management_allow[{number}]") for number, text in enumerate(texts))


def _parse(text: str, where: str) -> Managed:
    try:
        direction, protocol, rest = text.split(":", 2)
        network, _, port = rest.rpartition(":")
        if network.startswith("[") and network.endswith("]"):
            network = str(ipaddress.IPv6Network(network[1:-1]))
        else:
            network = str(ipaddress.IPv4Network(network))
        found = Managed(
            direction=Direction(direction.lower()),
            protocol=PROTOCOLS[protocol.lower()],
            network=network,
            port=int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0,
        )
    except (ValueError, KeyError):
        found = None
    if found is None or not 0 < found.port < 65536:
        raise PolicyInvalid(
            where,
            f"{text[:80]!r} is no entry of the management path",
            hint="write ingress:tcp:192.0.2.0/24:22 or egress:udp:[2001:db8::123/128]:123",
        )
    return found


class ManagementPath:
    """Owns its descriptors. One writer at a time: the agent; what it put stays when it goes."""

    def __init__(self, *, tables: Map, control: Map) -> None:
        """Takes over the maps `aegis_management` and `aegis_control`."""
        self._tables, self._control = tables, control
        self._memory = control.mmap(writable=True)
        self._bytes: Any = _system.ffi.from_buffer(self._memory)

    @classmethod
    def of(cls, tables: Any) -> Self:
        """That of anything with `map(name)`: a loaded object or the datapath."""
        with contextlib.ExitStack() as undo:
            found = {}
            for role, name in _TABLES.items():
                found[role] = tables.map(name).duplicate()
                undo.callback(found[role].close)
            path = cls(**found)
            undo.pop_all()
        return path

    def put(self, managed: Collection[Managed], flags: int = ALWAYS) -> bool:
        """Make these the path, in one step; whether anything changed. Raises MapFull for more than MOST, or KernelError."""
        wanted = sorted(set(managed))
        if len(wanted) > MOST:
            raise MapFull("fill", _TABLES["tables"], 28, detail=f"{len(wanted)} entries, has room for {MOST}")
        value = struct.pack("=2I", flags, len(wanted)) + b"".join(each.pack() for each in wanted)
        value = value.ljust(abi.struct("aegis_management").size, b"\0")
        version = _system.lib.aegis_load32(self._bytes + _VERSION)
        if self._tables.lookup(_key(version & 1)) == value:
            return False
        # Packets that read the word before it was last changed may still be at the table that is written now.
        FlowReader.wait()
        self._tables.update(_key(~version & 1), value)
        _system.lib.aegis_store32(self._bytes + _VERSION, (version + 1) & 0xFFFFFFFF)
        return True

    def held(self) -> tuple[Managed, ...]:
        """The entries that hold now. Raises KernelError."""
        version = _system.lib.aegis_load32(self._bytes + _VERSION)
        row = self._tables.lookup(_key(version & 1)) or bytes(8)
        (count,) = struct.unpack_from("=I", row, 4)
        size = abi.struct("aegis_management_entry").size
        return tuple(unpack(row[at : at + size]) for at in range(8, 8 + count * size, size))

    def close(self) -> None:
        """Leave; the path stays."""
        _system.ffi.release(self._bytes)
        self._memory.close()
        self._tables.close()
        self._control.close()


def _key(index: int) -> bytes:
    return index.to_bytes(4, "little")
