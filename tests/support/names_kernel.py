"""The names programs by themselves (object `probe_names`): messages go in as packets, what was bound comes out."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from aegis.kernel import abi
from aegis.kernel.names import Names
from aegis.kernel.names_reference import Count, Ends
from aegis.kernel.object import BpfObject
from aegis.model.policy_selectors import NameSelector
from tests.support import packets

PASSED, HELD_BACK = 0xFFFFFFFF, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT
GRACE_S = abi.enum("aegis_names_limits")["AEGIS_NAME_GRACE_S"]


def text(address: bytes) -> str:
    """An address of 16 bytes in words."""
    if address[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def selector(text: NameSelector | str) -> NameSelector:
    return text if isinstance(text, NameSelector) else NameSelector(text, "*" in text)


def boot_s() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def packet(ends: Ends, message: bytes, *, answers: bool, framed: bool = True) -> bytes:
    """The packet that carries a message, over TCP with its length before it."""
    client, server = text(ends.client), text(ends.server)
    source, destination = (server, client) if answers else (client, server)
    ports = (53, ends.port) if answers else (ends.port, 53)
    if ends.protocol == packets.UDP:
        carried = packets.udp(*ports, message)
    else:
        size = len(message).to_bytes(2, "big") if framed else b""
        carried = packets.tcp(*ports, packets.ACK | packets.PSH, size + message)
    if ":" in client:
        return packets.ethernet(packets.IPV6, packets.ipv6(source, destination, ends.protocol, carried))
    return packets.ethernet(packets.IPV4, packets.ipv4(source, destination, ends.protocol, carried))


class NamesProbe:
    """The loaded object, and its tables as the tests need them."""

    def __init__(self, *, addresses: int = 1024, data: bytes | None = None) -> None:
        self._stack = ExitStack()
        self.object = self._stack.enter_context(
            BpfObject.open(
                "probe_names", map_sizes={"aegis_ring": 1 << 16, "aegis_names": addresses}, data=data
            )
        )
        self.object.load()
        # A policy in slot 0, which the programs ask.
        self.object.map("aegis_control").update(bytes(4), abi.pack("aegis_control", state=1 << 8))
        self.names = Names.of(self.object)
        self._stack.callback(self.names.close)
        self._before = self.names.counts()

    def watch(self, *selectors: NameSelector | str, slot: int = 0) -> dict[NameSelector, int]:
        """Make these what slot 0, which the programs ask, looks for. The class of names that match one of them only."""
        wanted = [selector(each) for each in selectors]
        plan = self.names.plan(wanted)
        self.names.put(slot, plan)
        return {
            each: plan.classes[1 << place] for place, each in enumerate(wanted) if 1 << place in plan.classes
        }

    def counted(self) -> dict[str, int]:
        """What was counted since the last call, by name."""
        now = self.names.counts()
        found = {
            name: count - self._before[name] for name, count in now.items() if count != self._before[name]
        }
        self._before = now
        return found

    def query(self, ends: Ends, message: bytes) -> Count:
        """Send a message on its way; what it counted as."""
        return self._one("probe_names_query", packet(ends, message, answers=False))

    def answer(self, ends: Ends, message: bytes) -> Count:
        """Let a message come back; what it counted as. Bound addresses are not taken away."""
        return self._one("probe_names_answer", packet(ends, message, answers=True))

    def run(self, program: str, data: bytes) -> int:
        return self.object.program(program).run(data).retval

    def _one(self, program: str, data: bytes) -> Count:
        assert self.run(program, data) == PASSED
        found = {name: count for name, count in self.counted().items() if name in set(Count)}
        ((name, count),) = found.items()
        assert count == 1
        return Count(name)

    def bound(self) -> dict[bytes, dict[int, int]]:
        """Address -> class -> the second it is over."""
        return {each.address: dict(each.classes) for each in self.names.bindings()}

    def forget(self) -> None:
        """Take every address out of the table."""
        table = self.object.map("aegis_names")
        for key in [key for key, _ in table.items_batch()]:
            table.delete(key)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
