"""Keys, signatures and seals of the legacy profile. libsodium alone computes.

The seal of pushes protects nothing from who knows both public keys; it is what deployed peers open.
"""

from __future__ import annotations

import hashlib

from nacl import bindings
from nacl.exceptions import CryptoError

from aegis.errors import SealInvalid
from aegis.protocol import v1

KEY_BYTES = 32
SIGNATURE_BYTES = 64
TAG_BYTES = 16

_PRIME = (1 << 255) - 19
_ORDER_EIGHT = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
_HEX = frozenset("0123456789abcdef")
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})


class Signer:
    """An Ed25519 key pair from its 32-byte seed. Says nothing of the seed."""

    __slots__ = ("_secret", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
        self.public_key, self._secret = bindings.crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"Signer({self.public_key.hex()})"

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return bindings.crypto_sign(data, self._secret)[:SIGNATURE_BYTES]


def verifies(key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `key` signed `data`. False for keys and signatures of another length, small order or second spelling."""
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + data, key)
    except CryptoError:
        return False
    return True


def is_sound(key: bytes) -> bool:
    """Whether 32 bytes are the one spelling of a point that is not of small order; cheap, for before a signature."""
    if len(key) != KEY_BYTES:
        return False
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    return y < _PRIME and y not in _SMALL_ORDER


def uid_of(key: bytes) -> str:
    """The uid that goes with a raw public key."""
    return v1.UID_PREFIX + hashlib.sha256(key).hexdigest()[: v1.UID_DIGITS]


def is_uid_of_another(name: str, key: bytes) -> bool:
    """Whether a name an agent gives itself is the uid that goes with some other key."""
    if len(name) != len(v1.UID_PREFIX) + v1.UID_DIGITS or not name.startswith(v1.UID_PREFIX):
        return False
    return set(name[len(v1.UID_PREFIX) :]) <= _HEX and name != uid_of(key)


def shared_key(agent_key: bytes, gateway_key: bytes) -> bytes:
    """The key of pushes: of public values only."""
    return hashlib.sha256(agent_key + gateway_key).digest()


def seal(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """ChaCha20-Poly1305 (IETF), the tag behind."""
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(text, None, nonce, key)


def unseal(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    """Raises SealInvalid."""
    if len(nonce) != v1.NONCE_BYTES or len(sealed) < TAG_BYTES:
        raise SealInvalid("a sealed message needs a nonce of 12 bytes and a tag of 16")
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, nonce, key)
    except CryptoError:
        raise SealInvalid("the sealed message does not open") from None
