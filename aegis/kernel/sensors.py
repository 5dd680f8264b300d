"""The sensors: which programs of which object feed which topic, and the record kinds they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aegis.kernel import abi


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """Programs loaded and unloaded as a unit. None of its own (`programs` empty): the core object makes its records."""

    topic: str
    object: str
    programs: tuple[str, ...]
    kinds: tuple[int, ...]


SENSORS: Final[tuple[Sensor, ...]] = (
    Sensor(
        topic="process",
        object="observe",
        programs=("tp_exec", "tp_exit", "tp_fork"),
        kinds=(abi.KIND_EXEC, abi.KIND_EXIT, abi.KIND_FORK),
    ),
    Sensor(
        topic="socket",
        object="observe",
        programs=("tp_sock_begin", "tp_sock_state", "tp_sock_state_again"),
        kinds=(abi.KIND_CONNECT, abi.KIND_ACCEPT, abi.KIND_LISTEN),
    ),
    Sensor(topic="cgroup", object="observe", programs=("tp_cgroup_mkdir",), kinds=(abi.KIND_CGROUP,)),
    Sensor(topic="verdict", object="core", programs=(), kinds=(abi.KIND_VERDICT,)),
)

# Tables every object shares: whoever is loaded first makes them.
RING: Final = "aegis_ring"
READER: Final = "aegis_reader"
RECORD_COUNTERS: Final = "aegis_record_counters"
SHARED: Final[frozenset[str]] = frozenset(
    {RING, READER, RECORD_COUNTERS, "aegis_control", "aegis_sk_owner", "aegis_owners", "aegis_table_losses"}
)

KIND_NAMES: Final[dict[int, str]] = {
    number: name.removeprefix("AEGIS_KIND_").lower()
    for name, number in abi.enum("aegis_kind").items()
    if name.startswith("AEGIS_KIND_")
}
