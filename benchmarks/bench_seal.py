"""Sealing and opening 1 KiB: aegis._native.seal, nacl.secret.Aead with its own nonce, and the C loop.

Aead gives bytes, so it meets seal_many and open_many; the loop fills a buffer, so it meets seal_into and open_into. Rates
are messages a second of the thread's own processor time: neighbours on a shared machine do not count. All take turns
within a repetition; a ratio is the median of the repetitions' ratios.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import nacl.secret
from cffi import FFI

from aegis._native.seal import TAG_BYTES, Seal
from benchmarks.loops import load
from benchmarks.rows import Row, median

SIZE = 1024
BATCH = 64
ROUNDS = 8  # batches in one reading
REPETITIONS = 61
DECLARATIONS = """
void seal_loop_seal(void *encrypt, const unsigned char *key, const unsigned char *messages, uint64_t size,
                    uint64_t count, unsigned char *out);
uint64_t seal_loop_open(void *decrypt, const unsigned char *key, const unsigned char *messages, uint64_t size,
                        uint64_t count, unsigned char *out);
"""
SODIUM = """
int crypto_aead_chacha20poly1305_ietf_encrypt(void);
int crypto_aead_chacha20poly1305_ietf_decrypt(void);
"""


class CLoop:
    """The C loop on the very functions of PyNaCl's libsodium that seal.pyx calls."""

    def __init__(self, key: bytes, messages: list[bytes]) -> None:
        self._ffi, self._library = load("seal_loop", DECLARATIONS)
        self._sodium_ffi = FFI()
        self._sodium_ffi.cdef(SODIUM)
        self._sodium = self._sodium_ffi.dlopen(importlib.import_module("nacl._sodium").__file__)
        self._encrypt = self._address("encrypt")
        self._decrypt = self._address("decrypt")
        self._key = key
        self._plain = b"".join(messages)
        self._sealed = self._ffi.new("unsigned char[]", BATCH * (SIZE + TAG_BYTES))
        self._opened = self._ffi.new("unsigned char[]", BATCH * SIZE)

    def _address(self, verb: str) -> Any:
        function = getattr(self._sodium, f"crypto_aead_chacha20poly1305_ietf_{verb}")
        return self._ffi.cast("void *", int(self._sodium_ffi.cast("uintptr_t", function)))

    def seal(self) -> bytes:
        for _ in range(ROUNDS):
            self._library.seal_loop_seal(self._encrypt, self._key, self._plain, SIZE, BATCH, self._sealed)
        return bytes(self._ffi.buffer(self._sealed))

    def open(self) -> bytes:
        for _ in range(ROUNDS):
            verified = self._library.seal_loop_open(
                self._decrypt, self._key, self._sealed, SIZE, BATCH, self._opened
            )
            assert verified == BATCH
        return bytes(self._ffi.buffer(self._opened))


class Aead:
    """nacl.secret.Aead, which makes a nonce of its own for each message."""

    def __init__(self, key: bytes, messages: list[bytes]) -> None:
        self._aead = nacl.secret.Aead(key)
        self._messages = messages
        self._boxed: list[bytes] = [self._aead.encrypt(message) for message in messages]

    def seal(self) -> None:
        for _ in range(ROUNDS):
            for message in self._messages:
                self._aead.encrypt(message)

    def open(self) -> None:
        for _ in range(ROUNDS):
            for message in self._boxed:
                self._aead.decrypt(message)


class Ours:
    """One reading each of the batch calls; a fresh seal a reading, since nothing opens twice."""

    def __init__(self, key: bytes, messages: list[bytes]) -> None:
        self._key = key
        self._messages = messages
        self._room = bytearray(BATCH * (SIZE + TAG_BYTES))
        with Seal(key) as seal:
            self.batches = [seal.seal_many(messages) for _ in range(ROUNDS)]

    def rates(self) -> dict[str, float]:
        with Seal(self._key) as many, Seal(self._key) as into:
            return {
                "seal_many": rate(lambda: self._seal_many(many)),
                "seal_into": rate(lambda: self._seal_into(into)),
                "open_many": rate(lambda: self._open_many(many)),
                "open_into": rate(lambda: self._open_into(into)),
            }

    def _seal_many(self, seal: Seal) -> None:
        for _ in range(ROUNDS):
            seal.seal_many(self._messages)

    def _seal_into(self, seal: Seal) -> None:
        for _ in range(ROUNDS):
            seal.seal_into(self._messages, self._room)

    def _open_many(self, seal: Seal) -> None:
        for batch in self.batches:
            seal.open_many(batch)

    def _open_into(self, seal: Seal) -> None:
        for batch in self.batches:
            seal.open_into(batch, self._room)


def rate(work: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    work()
    return BATCH * ROUNDS * 1e9 / (time.thread_time_ns() - start)


def run() -> list[Row]:
    key = os.urandom(32)
    messages = [os.urandom(SIZE) for _ in range(BATCH)]
    ours, aead, loop = Ours(key, messages), Aead(key, messages), CLoop(key, messages)
    # What is compared must be the same work: same bytes from ours and the loop's.
    assert loop.seal() == b"".join(ours.batches[0])
    assert loop.open() == b"".join(messages)

    readings: dict[str, list[float]] = {}
    for _ in range(REPETITIONS):
        turn = ours.rates() | {
            "seal_aead": rate(aead.seal),
            "seal_c": rate(loop.seal),
            "open_aead": rate(aead.open),
            "open_c": rate(loop.open),
        }
        for name, figure in turn.items():
            readings.setdefault(name, []).append(figure)
    return [
        row(
            f"{verb}_{peer}",
            readings[f"{verb}_{form}"],
            readings[f"{verb}_{peer}"],
            f"{verb}_{form} {against}",
        )
        for verb in ("seal", "open")
        for form, peer, against in (
            ("many", "aead", "against nacl.secret.Aead"),
            ("into", "c", "against the C loop"),
        )
    ]


def row(name: str, ours: list[float], peers: list[float], note: str) -> Row:
    return Row(
        name=name,
        value=median(ours),
        unit="messages/s",
        peer=median(peers),
        ratio=median([mine / theirs for mine, theirs in zip(ours, peers, strict=True)]),
        samples=ours,
        note=f"1 KiB, batches of {BATCH}, {note}",
    )
