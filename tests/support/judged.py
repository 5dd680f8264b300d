"""What a flow's `judged` word holds, by the names of its fields."""

from __future__ import annotations

from typing import Any

from aegis.kernel import abi

SHIFTS = {
    "verdict": abi.enum("aegis_judged")["AEGIS_JUDGED_VERDICT_SHIFT"],
    "initiator": abi.enum("aegis_judged")["AEGIS_JUDGED_INITIATOR_SHIFT"],
}
FIELDS = ("rule", *SHIFTS)


def packed(value: dict[str, Any]) -> dict[str, Any]:
    """Members of struct aegis_flow_value, with rule, verdict and initiator joined where they are given."""
    word = value.get("rule", 0) | sum(value.get(name, 0) << shift for name, shift in SHIFTS.items())
    return {name: each for name, each in value.items() if name not in FIELDS} | {"judged": word}
