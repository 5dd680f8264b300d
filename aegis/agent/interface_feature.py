"""The row of `aegis doctor` for the interfaces: which are watched, or would be, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aegis.errors import HostError
from aegis.host.reader import Host

if TYPE_CHECKING:
    from aegis.kernel.features import Feature, State
    from aegis.model.health import Condition

# What the agent says of interfaces where something is amiss (aegis.agent.watched_interfaces, aegis.agent.hook_looks).
CODES = frozenset({"no_interface", "interface_unattached", "interfaces_unreadable", "hook_lost"})
_EFFECT = {
    "ok": "",
    "degraded": "packets of that interface are not counted or judged",
    "missing": "no packet is counted or judged",
}
_HINT = "name them with --interface (kernel.interfaces)"


def of_agent(watched: Sequence[str] | None, conditions: Iterable[Condition]) -> Feature:
    """By what a running agent watches, and the conditions it has about it. To watch none as told to is no fault.

    `watched` is None where no packet program is installed.
    """
    told = [one for one in conditions if one.code in CODES]
    texts = [one.text for one in told]
    if watched is None:
        texts.append("no packet program is installed")
    state: State = "ok" if not texts else "degraded" if watched else "missing"
    hint = next((one.hint for one in told if one.hint), _HINT if told else "aegis status says why")
    return _feature(state, f"watched: {', '.join(watched or ()) or 'none'}", "; ".join(texts), hint)


def of_host(host: Host) -> Feature:
    """By what an agent would watch that is not told which; the host is closed."""
    try:
        found = [link.name for link in host.default_interfaces()]
    except HostError as error:
        return _feature("missing", "links and routes by netlink", str(error), error.hint or _HINT)
    finally:
        host.close()
    return _feature(
        "ok" if found else "missing",
        f"hold a route: {', '.join(found) or 'none'}",
        "" if found else "no interface holds a route",
        _HINT,
    )


def _feature(state: State, source: str, reason: str, hint: str) -> Feature:
    from aegis.kernel.features import Feature

    effect = _EFFECT[state]
    return Feature(
        name="interfaces",
        state=state,
        source=source,
        reason=reason,
        effect=effect,
        hint=hint if effect else "",
    )
