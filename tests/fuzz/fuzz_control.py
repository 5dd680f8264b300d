"""Any frame on the control socket: a request, or a typed error that can be sent; its arguments likewise."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/agent/control/envelope.py",
    "aegis/agent/control/verbs.py:check",
    "aegis/agent/control/verbs.py:Verb",
    "aegis/agent/answers.py:probe_of",
)


def one(data: bytes) -> None:
    import contextlib
    import json

    from aegis.agent.answers import probe_of
    from aegis.agent.control import envelope, verbs
    from aegis.errors import EnvelopeInvalid

    frames: list[str | bytes] = [data]
    with contextlib.suppress(UnicodeDecodeError):
        frames.append(data.decode())
    for frame in frames:
        try:
            request = envelope.read(frame)
        except EnvelopeInvalid as error:
            sent = json.loads(envelope.error(envelope.id_of(frame), error))
            assert sent["error"]["code"] == "envelope_invalid"
            continue
        assert envelope.id_of(frame) == request.id
        json.loads(envelope.item(request.id, request.args))
        json.loads(envelope.end(request.id))
        verb = next((one for one in verbs.VERBS if one.name == request.verb), None)
        if verb is None:
            continue
        verb.changes_with(request.args)
        try:
            verbs.check(verb, request.args)
            if verb.name == "policy.explain":
                probe = probe_of(request.args)
                assert 0 <= probe.protocol <= 255
                assert len(probe.source) == len(probe.destination) == 16
        except EnvelopeInvalid as error:
            json.loads(envelope.error(request.id, error))


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("control")
