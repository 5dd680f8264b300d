"""Any object as an order: a command, or a typed refusal; a policy that is made can be read by the language."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/orders.py",
    "aegis/protocol/policy_variants.py",
)


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid, OrderInvalid, OrderUnknown, PolicyError
    from aegis.model.policy_document import parse_document
    from aegis.protocol import orders, payloads

    try:
        body = payloads.read_push(data)
    except EnvelopeInvalid:
        return
    for channel in ("modules", "policies", "tests"):
        try:
            command = orders.parse(channel, body, wall_s=1_700_000_000)
        except (OrderUnknown, OrderInvalid, PolicyError) as error:
            said = error.code + str(error)
            assert "\n" not in said
            continue
        if isinstance(command, orders.ApplyPolicy) and command.variant != "own":
            try:
                read = parse_document(command.document)
            except PolicyError as error:
                # The name is the operator's, and the language may not take it.
                path = error.path
                assert path == "metadata.name"
                continue
            assert read.name == command.name
            assert read.rules


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("orders")
