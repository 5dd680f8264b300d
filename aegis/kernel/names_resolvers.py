"""Whose answers are believed: the servers the host asks, and those an operator names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis.kernel.names_plan import LIMITS
from aegis.kernel.names_reference import mapped

RESOLV_CONF: Final = Path("/etc/resolv.conf")
# Where a local stub says whom it asks: its own questions and answers are what the interfaces carry.
BEHIND_STUBS: Final = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)
MOST: Final = LIMITS["AEGIS_NAME_RESOLVERS"]
_DEFAULT: Final = ("127.0.0.1", "::1")  # resolv.conf(5): without a nameserver line, the one on this host
_LARGEST: Final = 65_536  # bytes of a file that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolvers:
    """Addresses of 16 bytes, IPv4 mapped, in the order found; `left_out` is what could not be read, in words."""

    addresses: tuple[bytes, ...]
    left_out: tuple[str, ...] = ()

    @property
    def stub(self) -> bool:
        """Whether one is on this host: its answers are seen where the loopback interface is watched only."""
        return any(is_local(each) for each in self.addresses)


def is_local(address: bytes) -> bool:
    """Whether an address is one of the loopback's."""
    found = ipaddress.IPv6Address(address)
    return (found.ipv4_mapped or found).is_loopback


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """The addresses of the nameserver lines, as they are written but for the interface of a link-local one."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            found.append(words[1].partition("%")[0])
    return tuple(found)


def find_resolvers(
    named: Sequence[str] = (), *, conf: Path = RESOLV_CONF, behind: Sequence[Path] = BEHIND_STUBS
) -> Resolvers:
    """Those `named`, then those of resolv.conf, and where one of them is on this host those behind it."""
    left_out: list[str] = []
    texts = [*named, *(_read(conf, left_out) or _DEFAULT)]
    if Resolvers(addresses=_parsed(texts, [])).stub:
        for path in behind:
            texts += _read(path, []) if path.exists() else ()
    found = _parsed(texts, left_out)
    if len(found) > MOST:
        left_out.append(f"{len(found) - MOST} resolvers beyond {MOST}")
    return Resolvers(addresses=found[:MOST], left_out=tuple(left_out))


def _read(path: Path, left_out: list[str]) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            return parse_resolv_conf(file.read(_LARGEST).decode(errors="replace"))
    except OSError as error:
        left_out.append(f"{path}: {error.strerror}")
        return ()


def _parsed(texts: Sequence[str], left_out: list[str]) -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for text in texts:
        try:
            found[mapped(ipaddress.ip_address(text).packed)] = None
        except ValueError:
            left_out.append(f"{text!r} is no address")
    return tuple(found)
