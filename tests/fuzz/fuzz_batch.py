"""Any payload on the channels of a registered agent: a batch within its limits, another kind, or a refusal."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/protocol/payloads.py:read_kind",
    "aegis/protocol/payloads.py:read_batch",
    "aegis/protocol/payloads.py:_boot_id",
    "aegis/protocol/depth.py",
)


@functools.cache
def stage() -> Any:
    from tests.support.stages import Stage

    return Stage(errors=1 << 60).register()


def one(data: bytes) -> None:
    from aegis.errors import EnvelopeInvalid
    from aegis.protocol import payloads, v1
    from aegis.protocol.depth import is_deeper
    from aegis.protocol.gateway_happenings import Answer, Batch, Ignored, Refused, State

    try:
        kind, text = payloads.read_kind(base64.b64encode(data).decode())
        found = payloads.read_batch(text, kind or "")
    except EnvelopeInvalid as error:
        said = str(error)
        assert said
    else:
        assert len(found.items) <= v1.BATCH_ITEMS
        assert len(found.boot) == 16
        for each in found.items:
            item = bytes(each)
            assert item[:1] == b"{"
            assert not is_deeper(item, v1.JSON_DEPTH - 2)
            item.decode()
    with contextlib.suppress(EnvelopeInvalid):
        payloads.read_batch(data.ljust(v1.BATCH_BYTES + v1.BATCH_ROOM + 1), "events")
        raise AssertionError("more was read than a batch holds")
    for name in ("processes", "status", "policies", "threats", "logs"):
        frame = {
            "type": "event",
            "channel": f"agent.host-1.{name}",
            "payload": base64.b64encode(data).decode(),
        }
        (happened,) = stage().say(json.dumps(frame))
        assert isinstance(happened, Batch | Answer | State | Ignored | Refused)
    assert stage().heard() == []


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("batch")
