"""Any bytes as agent.key and as registration.json: an identity, or StorageError that names the file.

A file of registrations that says nothing costs a registration; it never keeps the agent from its key.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = ("aegis/agent/identity.py",)
KEY = b'{"seed":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'


def one(data: bytes) -> None:
    from aegis.agent import identity, private_file
    from aegis.errors import StorageError

    files: dict[str, bytes] = {}

    def read(path: str, most: int) -> bytes | None:
        content = files.get(path)
        if content is not None and len(content) > most:
            raise private_file.refused(path, "is too large")
        return content

    with (
        mock.patch.object(private_file, "read", read),
        mock.patch.object(private_file, "replace", files.__setitem__),
    ):
        assert identity.load("/s") is None
        files["/s/agent.key"] = data
        try:
            found = identity.load_or_make("/s", bytes)
        except StorageError as error:
            said = str(error)
            assert said.startswith("/s/agent.key: ")
        else:
            assert len(found.seed) == identity.SEED_BYTES
        files["/s/agent.key"], files["/s/registration.json"] = KEY, data
        kept = identity.load("/s")
        assert kept is not None
        if kept.uid is not None:
            assert isinstance(kept.uid, str)
        told = identity.Registration(uid=data[:40].decode("utf-8", "replace"), url=f"ws://{len(data)}")
        for number in range(1 + data[:1].count(b"{") * identity.MOST_GATEWAYS):
            kept.remember(identity.Registration(uid="u", url=str(number)))
        kept.remember(told)
        kept.remember(told)
        again = identity.load("/s")
        assert again is not None
        assert again.registration(told.url) == told
        assert again.uid == told.uid
        assert kept.seed.hex() not in repr(kept)
        del files["/s/agent.key"]
        made = identity.load_or_make("/s", bytes)
        assert (made.seed, made.uid) == (bytes(identity.SEED_BYTES), None)


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("identity")
