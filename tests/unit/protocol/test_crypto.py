"""Keys that are none, signatures in a second spelling, seals that do not open."""

from __future__ import annotations

import pytest
from nacl.bindings import crypto_core_ed25519_is_valid_point

from aegis.errors import SealInvalid
from aegis.protocol import crypto
from aegis.protocol.crypto import Signer, is_sound, is_uid_of_another, seal, uid_of, unseal, verifies

ME = Signer(bytes(range(32)))
PRIME = (1 << 255) - 19
ORDER = (1 << 252) + 27742317777372353535851937790883648493
# The points of small order, each spelling and sign of the list that libsodium has.
SMALL = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]
SECOND_SPELLINGS = [(PRIME + each).to_bytes(32, "little") for each in range(19)]


def signed(key: bytes) -> list[bytes]:
    return [key, key[:31] + bytes([key[31] | 0x80])]


@pytest.mark.parametrize("key", [each for key in SMALL + SECOND_SPELLINGS for each in signed(key)])
def test_small_order_and_second_spellings_are_no_keys(key: bytes) -> None:
    assert not is_sound(key)
    assert not crypto_core_ed25519_is_valid_point(key)
    # The forgery: R = the identity, S = 0 verifies under a key of small order for those who do not look.
    forged = (1).to_bytes(32, "little") + bytes(32)
    assert not verifies(key, forged, b"anything")


@pytest.mark.parametrize("size", [0, 10, 31, 33, 64])
def test_lengths_come_first(size: int) -> None:
    assert not is_sound(bytes([9]) * size)
    assert not verifies(bytes([9]) * size, bytes(64), b"")


def test_keys_of_ours_are_sound() -> None:
    for number in range(200):
        key = Signer(number.to_bytes(32, "big")).public_key
        assert is_sound(key)
        assert crypto_core_ed25519_is_valid_point(key)


def test_a_signature_in_a_second_spelling() -> None:
    signature = ME.sign(b"text")
    larger = int.from_bytes(signature[32:], "little") + ORDER
    assert verifies(ME.public_key, signature, b"text")
    assert not verifies(ME.public_key, signature[:32] + larger.to_bytes(32, "little"), b"text")


@pytest.mark.parametrize("place", range(0, 512, 7))
def test_no_bit_of_a_signature_is_free(place: int) -> None:
    signature = bytearray(ME.sign(b"text"))
    signature[place // 8] ^= 1 << place % 8
    assert not verifies(ME.public_key, bytes(signature), b"text")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_has_64_bytes(size: int) -> None:
    assert not verifies(ME.public_key, (ME.sign(b"text") * 2)[:size], b"text")


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(ValueError, match="a seed has 32 bytes"):
        Signer(seed)


def test_a_signer_says_nothing_of_its_seed() -> None:
    seed = bytes(range(100, 132))
    assert seed.hex() not in repr(Signer(seed)) + str(Signer(seed))
    assert repr(seed) not in repr(Signer(seed))


def test_a_seal_opens_only_whole() -> None:
    key, nonce, text = bytes(range(32)), bytes(range(12)), b"text of a push"
    sealed = seal(key, nonce, text)
    assert unseal(key, nonce, sealed) == text
    for place in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SealInvalid):
            unseal(key, nonce, bytes(changed))
    for other in (sealed[:-1], sealed[:15], b"", sealed + b"\0"):
        with pytest.raises(SealInvalid):
            unseal(key, nonce, other)
    with pytest.raises(SealInvalid):
        unseal(bytes(32), nonce, sealed)


@pytest.mark.parametrize("size", [0, 11, 13, 24])
def test_a_nonce_has_12_bytes(size: int) -> None:
    with pytest.raises(SealInvalid, match="nonce of 12 bytes"):
        unseal(bytes(32), bytes(size), bytes(32))


def test_the_uid_of_a_key() -> None:
    assert crypto.uid_of(ME.public_key) == "agent-56475aa75463474c"


def test_the_uid_of_another() -> None:
    key = ME.public_key
    own = uid_of(key)
    assert is_uid_of_another(uid_of(bytes(32)), key)
    assert not is_uid_of_another(own, key)
    for name in (
        "",
        "host-1",
        "agent-1",
        own + "0",
        own.upper(),
        "agent-0123456789abcdeg",
        "agent_0123456789abcdef",
    ):
        assert not is_uid_of_another(name, key), name
