from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aegis.agent import identity, private_file
from aegis.agent.identity import Registration
from aegis.errors import StateFileRefused, StorageError

URL = "ws://gateway:8080/ws/agent"


def made(state: Path) -> identity.Identity:
    return identity.load_or_make(str(state), os.urandom)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    assert identity.load(str(tmp_path)) is None
    first = made(tmp_path)
    assert len(first.seed) == 32
    assert made(tmp_path).seed == first.seed
    kept = identity.load(str(tmp_path))
    assert kept is not None
    assert (kept.seed, kept.uid) == (first.seed, None)
    assert os.listdir(tmp_path) == ["agent.key"]


def test_no_text_of_it_holds_the_seed(tmp_path: Path) -> None:
    one = made(tmp_path)
    assert one.seed.hex() not in repr(one)
    assert repr(one.seed)[2:-1] not in f"{one} {one!r}"


def test_a_registration_is_kept_by_gateway_and_the_newest_names_the_agent(tmp_path: Path) -> None:
    one = made(tmp_path)
    assert (one.registration(URL), one.uid) == (None, None)
    one.remember(Registration(uid="agent-1", url=URL, gateway_key=b"k" * 32))
    one.remember(Registration(uid="agent-2", url="ws://other"))
    one.remember(Registration(uid="agent-3", url=URL))
    again = made(tmp_path)
    assert again.registration(URL) == Registration(uid="agent-3", url=URL)
    assert again.registration("ws://other") == Registration(uid="agent-2", url="ws://other")
    assert (one.uid, again.uid) == ("agent-3", "agent-3")
    for number in range(identity.MOST_GATEWAYS):
        one.remember(Registration(uid="x", url=f"ws://{number}"))
    assert made(tmp_path).registration(URL) is None


def test_what_could_not_be_kept_is_kept_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(tmp_path)
    given = Registration(uid="agent-1", url=URL)

    def full(*_: object) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(private_file, "replace", full)
        for _ in range(2):
            with pytest.raises(StorageError):
                one.remember(given)
    assert (one.registration(URL), made(tmp_path).uid) == (given, None)
    one.remember(given)
    assert made(tmp_path).registration(URL) == given
    monkeypatch.setattr(private_file, "replace", full)
    one.remember(given)  # nothing new: nothing is written


def test_a_registration_of_another_key_is_none(tmp_path: Path) -> None:
    made(tmp_path).remember(Registration(uid="agent-1", url=URL))
    (tmp_path / "agent.key").unlink()
    assert [made(tmp_path).uid for _ in range(2)] == [None, None]  # made anew, and read back


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff" * 100, b'{"key": 1}', b'{"key": "\xff"}', b'{"a":' + b"[" * 4000]
)
def test_a_registration_that_cannot_be_read_costs_one_more(tmp_path: Path, content: bytes) -> None:
    one = made(tmp_path)
    one.remember(Registration(uid="agent-1", url=URL))
    (tmp_path / "registration.json").write_bytes(content)
    again = made(tmp_path)
    assert (again.uid, again.seed) == (None, one.seed)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"seed": "!"}', b'{"seed": "AAAA"}', b'{"other": 1}', b'{"a":' + b"[" * 4000],
)
def test_a_key_that_cannot_be_read_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StateFileRefused, match=str(path)):
        made(tmp_path)
    assert path.read_bytes() == content


def test_where_a_key_cannot_be_kept_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        made(tmp_path / "none")


# A child that makes a key, registers and says each as soon as it holds; killed right before its N-th call of the kind
# that changes the disk.
CHILD = """
import os, signal, sys
left = int(sys.argv[2])
def counted(call):
    def step(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return step
for name in ("open", "write", "fsync", "close", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
from aegis.agent import identity, private_file
one = identity.load_or_make(sys.argv[1], os.urandom)
print("key", one.seed.hex(), flush=True)
one.remember(identity.Registration(uid="agent-1", url="ws://x"))
print("uid", one.uid, flush=True)
"""


def test_killed_at_each_step_it_stays_one_identity(tmp_path: Path) -> None:
    """After each death: what was said holds, nothing blocks the next start, and that one goes through."""
    steps = 0
    while True:
        state = tmp_path / str(steps)
        state.mkdir()
        found = subprocess.run(
            [sys.executable, "-c", CHILD, str(state), str(steps)], capture_output=True, text=True, check=False
        )
        said = dict(line.split() for line in found.stdout.splitlines())
        after = made(state)
        assert after.seed.hex() == said.get("key", after.seed.hex()), steps
        assert after.uid == said.get("uid", after.uid), steps
        after.remember(Registration(uid="agent-1", url="ws://x"))
        again = made(state)
        assert (again.seed, again.uid) == (after.seed, "agent-1")
        assert not [name for name in os.listdir(state) if name.endswith(".new")], steps
        if found.returncode == 0:
            break
        assert found.returncode == -9, found.stderr
        steps += 1
    assert steps > 12
