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
from functools import partial
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


def rate(work: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    work()
    return BATCH * ROUNDS * 1e9 / (time.thread_time_ns() - start)


def run() -> list[Row]:
    key = os.urandom(32)
    messages = [os.urandom(SIZE) for _ in range(BATCH)]
    plain = b"".join(messages)
    loop = CLoop(key, messages)
    aead = nacl.secret.Aead(key)
    boxed = [aead.encrypt(message) for message in messages]
    with Seal(key) as seal:
        batches = [seal.seal_many(messages) for _ in range(ROUNDS)]
    room = bytearray(BATCH * (SIZE + TAG_BYTES))

    # What is compared must be the same work: same bytes from ours and the loop's.
    assert loop.seal() == b"".join(batches[0])
    assert loop.open() == plain

    def aead_seal() -> None:
        for _ in range(ROUNDS):
            for message in messages:
                aead.encrypt(message)

    def aead_open() -> None:
        for _ in range(ROUNDS):
            for message in boxed:
                aead.decrypt(message)

    def seal_many(seal: Seal) -> None:
        for _ in range(ROUNDS):
            seal.seal_many(messages)

    def seal_into(seal: Seal) -> None:
        for _ in range(ROUNDS):
            seal.seal_into(messages, room)

    def open_many(seal: Seal) -> None:
        for batch in batches:
            seal.open_many(batch)

    def open_into(seal: Seal) -> None:
        for batch in batches:
            seal.open_into(batch, room)

    readings: dict[str, list[float]] = {}
    for _ in range(REPETITIONS):
        with Seal(key) as many, Seal(key) as into:
            turns: dict[str, Callable[[], object]] = {
                "seal_many": partial(seal_many, many),
                "seal_aead": aead_seal,
                "seal_into": partial(seal_into, into),
                "seal_c": loop.seal,
                "open_many": partial(open_many, many),
                "open_aead": aead_open,
                "open_into": partial(open_into, into),
                "open_c": loop.open,
            }
            for name, work in turns.items():
                readings.setdefault(name, []).append(rate(work))
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
