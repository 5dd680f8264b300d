"""The files of the policies in force: whole, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from aegis.errors import StorageError
from aegis.kernel.policy_store import PolicyStore
from aegis.model.policy import PolicySet
from aegis.model.policy_document import parse_document

TEXT = b"""# a comment is kept
apiVersion: aegis/v1
kind: HostNetworkPolicy
metadata: {name: NAME}
spec: {mode: enforce, egressDeny: [{toPorts: [{ports: [{port: 23}]}]}]}
"""


def policies(*names: str) -> PolicySet:
    found = PolicySet()
    for name in names:
        found = found.with_policy(parse_document(TEXT.replace(b"NAME", name.encode())))
    return found


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    assert store.load(None) is None
    assert store.last_generation() == 0
    store.prepare(5, "ab", policies("a", "b"))
    assert store.load(None) is None
    assert store.last_generation() == 5
    store.commit()
    stored = store.load(5)
    assert stored is not None
    assert (stored.generation, stored.image_digest) == (5, "ab")
    assert stored.decode() == policies("a", "b")
    assert store.load(None) == stored
    assert os.stat(tmp_path / "policy").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "policy" / "committed.json").st_mode & 0o777 == 0o600


def test_the_state_word_says_which_of_two_is_true(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.prepare(5, "ab", policies("a"))
    store.commit()
    store.prepare(6, "cd", policies("b"))
    old = store.load(5)
    assert old is not None
    assert old.decode() == policies("a")
    new = store.load(6)
    assert new is not None
    assert new.decode() == policies("b")
    assert store.load(None) == old
    assert store.committed(5)
    store.keep(6, "cd", policies("b"))
    assert store.committed(6)
    assert store.load(None) == new
    with pytest.raises(StorageError, match="kernel has 7"):
        store.load(7)


def test_a_discarded_set_is_gone(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.discard()
    store.prepare(5, "ab", policies("a"))
    store.discard()
    assert store.last_generation() == 0


def test_a_set_in_force_is_committed_before_its_place_is_taken(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.prepare(5, "ab", policies("a"))
    store.prepare(6, "cd", policies("b"), in_force=5)
    assert store.committed(5)
    store.prepare(7, "ef", policies("c"), in_force=5)
    store.discard()
    stored = store.load(5)
    assert stored is not None
    assert stored.decode() == policies("a")


def test_every_damage_is_refused_by_name(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.prepare(5, "ab", policies("a"))
    store.commit()
    path = tmp_path / "policy" / "committed.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"committed\.json"):
            store.load(5)
    for size in range(0, len(whole), 11):
        path.write_bytes(whole[:size])
        with pytest.raises(StorageError, match=r"committed\.json"):
            store.load(None)
    path.write_bytes(whole)
    assert store.load(5) is not None


def test_a_document_of_another_language_is_refused(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    known = policies("a")
    store.prepare(5, "ab", known)
    store.commit()
    stored = store.load(5)
    assert stored is not None
    changed = known.policies[0].document.replace(b"egressDeny", b"egressKill")
    broken = PolicySet(policies=(msgspec.structs.replace(known.policies[0], document=changed),))
    store.prepare(6, "ab", broken)
    store.commit()
    later = store.load(6)
    assert later is not None
    with pytest.raises(StorageError, match="egressKill"):
        later.decode()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("a file")
    with pytest.raises(StorageError):
        PolicyStore(tmp_path).prepare(1, "ab", policies("a"))
