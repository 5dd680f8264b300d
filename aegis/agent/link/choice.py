"""What the options of the table `gateway` come to: no gateway, one that is spoken to in v1, or a refusal with its reason."""

from __future__ import annotations

import msgspec

from aegis.errors import NotBuilt
from aegis.runtime.gateway_url import GatewayUrl, parse
from aegis.runtime.settings import Settings

V1 = "v1"
TO_V1 = "--protocol v1, or gateway.min_protocol = 1 in agent.toml, where v1 is good enough: it hides nothing"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which gateway and how. `refusal`: why nothing is spoken to it at all; None where v1 is.

    `reregister` None: where a gateway that is not one of ours has another key than when it registered us.
    """

    url: GatewayUrl
    ca: str | None
    reregister: bool | None
    refusal: NotBuilt | None = None


def choose(gateway: Settings) -> Choice | None:
    """None where no gateway is configured."""
    text = gateway["url"]
    url = parse(text) if isinstance(text, str) else None
    if url is None:
        return None
    ca, reregister = gateway["ca"], gateway["reregister"]
    return Choice(
        url=url,
        ca=ca if isinstance(ca, str) else None,
        reregister=reregister if isinstance(reregister, bool) else None,
        refusal=_refusal(gateway.text("protocol"), gateway["min_protocol"]),
    )


def _refusal(protocol: str, floor: object) -> NotBuilt | None:
    """A person who asks for v1 by name has lowered the floor, unless the floor was set as well."""
    if protocol == "v2":
        return NotBuilt("protocol v2 is not built yet", hint=TO_V1)
    if floor == 1 or (floor is None and protocol == V1):
        return None
    said = "gateway.min_protocol is 2" if floor == 2 else "gateway.min_protocol is 2 by default"
    return NotBuilt(f"{said}, and protocol v2 is not built yet", hint=TO_V1)
