"""Any headers as an upgrade request at the gateway: an id and a sound key, or one of the refusals agents know.

A line is a header, `NAME: VALUE`; a first line `any` or `full` is the gateway's own state.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/protocol/upgrade.py", "aegis/protocol/crypto.py:is_sound")


def one(data: bytes) -> None:
    import base64

    from aegis.protocol import upgrade, v1
    from aegis.protocol.crypto import is_sound

    lines = data.decode("latin-1").split("\n")
    headers = [(name, value.lstrip(" ")) for name, _, value in (line.partition(":") for line in lines[:99])]
    full, any_user_agent = "full" in lines[:2], "any" in lines[:2]
    found = upgrade.check(headers, any_user_agent=any_user_agent, full=full)
    if isinstance(found, upgrade.UpgradeRefused):
        refused = {v1.MISSING_HEADERS, v1.INVALID_USER_AGENT, v1.INVALID_KEY, v1.INVALID_ID}
        assert (found.status, found.text) == (503, v1.AT_CAPACITY) or (
            found.status == 400 and found.text in refused
        )
        assert full or found.status == 400
        return
    assert not full
    assert v1.ID.fullmatch(found.agent_id)
    assert len(found.key) == 32
    assert is_sound(found.key)
    low = [(name.lower(), value) for name, value in headers]
    texts = [value.replace("\r", "") for name, value in low if name in v1.HEADER_KEY_NAMES]
    assert base64.b64encode(found.key).decode() in texts
    assert any_user_agent or next(value for name, value in low if name == "user-agent") == v1.USER_AGENT


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("upgrade")
