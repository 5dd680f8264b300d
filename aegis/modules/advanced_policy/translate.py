"""Verdict records of the kernel into events that name policy, rule and owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aegis.model.absent import Absent
from aegis.model.event import VerdictEvent
from aegis.model.flow import Verdict
from aegis.model.net import Direction
from aegis.model.policy import RuleName
from aegis.model.process import Owner, OwnerLabel

Record = tuple[Any, ...]

# In the order of enum aegis_verdict and enum aegis_direction.
VERDICTS = (Verdict.ALLOW, Verdict.AUDIT, Verdict.DENY)
DIRECTIONS = (Direction.EGRESS, Direction.INGRESS)
LOST_IMAGE = Absent("no rule: the policy's image was missing, and what cannot be judged is denied")


def translate(
    records: Iterable[Record],
    *,
    rule_of: Callable[[int, int], RuleName | None],
    owner_of: Callable[[int], Owner | None],
    interface_of: Callable[[int], str | None],
    wall_offset_ns: int,
) -> list[VerdictEvent]:
    """One event a record, in their order. `wall_offset_ns` is the wall clock minus CLOCK_BOOTTIME.

    `rule_of(generation, rule)` names a rule number, `owner_of(owner)` an owner id, `interface_of(index)` an interface.
    """
    events = []
    for record in records:
        (
            _, ktime_ns, _, local, remote, local_port, remote_port, index, protocol, fragment, owner, generation,
            cookie, suppressed, rule, verdict, initiator,
        ) = record  # fmt: skip
        direction = DIRECTIONS[initiator]
        here, there = (local, local_port), (remote, remote_port)
        source, destination = (here, there) if direction is Direction.EGRESS else (there, here)
        name = rule_of(generation, rule)
        events.append(
            VerdictEvent(
                time_ns=ktime_ns + wall_offset_ns,
                owner=owner_of(owner) or OwnerLabel.UNKNOWN,
                verdict=VERDICTS[verdict],
                policy=name.policy if name else _unnamed(generation, rule),
                rule=name.rule if name else _unnamed(generation, rule),
                generation=generation,
                suppressed=suppressed,
                protocol=protocol,
                source=source[0],
                source_port=source[1],
                destination=destination[0],
                destination_port=destination[1],
                direction=direction,
                interface=interface_of(index) or Absent(f"interface {index} is gone"),
                fragment=bool(fragment),
                cookie=cookie,
            )
        )
    return events


def _unnamed(generation: int, rule: int) -> Absent:
    return Absent(f"the rules of generation {generation} are not known here") if rule else LOST_IMAGE
