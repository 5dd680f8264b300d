"""One block at rest: its bytes before sealing, and the seal.

    plain  = format 1, count u32, base_ns i64, boot_id (16), seq u64, upto u64, length of losses u32, losses (JSON), records
    sealed = nonce (24), XChaCha20-Poly1305(plain), AD = (stream u64, class u8, first u64), big-endian

This is what the content of a block holds, laid out so that it is cut apart without reading a record. `seq` is
the row's place, so that none is moved; `upto` counts the records of the class ever put into the file, this row's included: what is missing between two rows is known by it.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec

from aegis.errors import SpoolCorrupt
from aegis.model.block import Block, BlockClass, Loss

KEY_BYTES: Final = 32
CLASSES: Final = tuple(BlockClass)
RANK: Final = {cls: rank for rank, cls in enumerate(CLASSES)}
ROW_BYTES: Final = 32  # what a row takes beside its blob, about
LARGEST_STREAM: Final = (1 << 53) - 1  # the last whole number that every reader of JSON has
_FORMAT = 1
_NONCE = 24
_TAG = 16
_HEAD = struct.Struct(">BIq16sQQI")
_AD = struct.Struct(">QBQ")
_STATE_AD = b"aegis outbox state"
_losses = msgspec.json.Decoder(tuple[Loss, ...])


class Key:
    """Seals and opens. Its repr holds no secret."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def seal(self, block: Block, seq: int, upto: int) -> bytes:
        losses = losses_bytes(block)
        head = _HEAD.pack(_FORMAT, block.count, block.base_ns, block.boot_id, seq, upto, len(losses))
        return self._sealed(head + losses + block.records, associated(block.cls, block.stream, block.first))

    def open(self, cls: BlockClass, seq: int, stream: int, first: int, sealed: bytes) -> tuple[Block, int]:
        """The block and its `upto`. Raises SpoolCorrupt for everything but what `seal` made of this place."""
        place, block, upto = self._read(cls, stream, first, sealed)
        if place != seq:
            raise SpoolCorrupt("a row at another's place")
        return block, upto

    def find(
        self, likely: BlockClass | None, stream: int, first: int, sealed: bytes
    ) -> tuple[BlockClass, int, Block, int]:
        """Class, seq, block and `upto` of a row whose place is not known. Raises SpoolCorrupt where it is none."""
        problem = SpoolCorrupt("a row of no class")
        for cls in sorted(CLASSES, key=lambda cls: cls is not likely):
            try:
                place, block, upto = self._read(cls, stream, first, sealed)
            except SpoolCorrupt as error:
                problem = error
            else:
                return cls, place, block, upto
        raise problem

    def _read(self, cls: BlockClass, stream: int, first: int, sealed: bytes) -> tuple[int, Block, int]:
        plain = self._opened(sealed, associated(cls, stream, first))
        if plain[:1] != bytes((_FORMAT,)):
            raise SpoolCorrupt(f"a row of format {plain[:1].hex()}, not {_FORMAT}")
        if len(plain) < _HEAD.size:
            raise SpoolCorrupt(f"a row cut short to {len(plain)} bytes")
        _, count, base_ns, boot_id, place, upto, length = _HEAD.unpack_from(plain)
        start = _HEAD.size + length
        if start > len(plain):
            raise SpoolCorrupt("a row cut short in its losses")
        try:
            losses = _losses.decode(plain[_HEAD.size : start]) if length else ()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SpoolCorrupt(f"losses of a row: {error}") from None
        block = Block(
            cls=cls,
            stream=stream,
            first=first,
            count=count,
            boot_id=boot_id,
            base_ns=base_ns,
            records=plain[start:],
            losses=losses,
        )
        return place, block, upto

    def seal_state(self, content: bytes) -> bytes:
        """The one row that is no block."""
        return self._sealed(content, _STATE_AD)

    def open_state(self, sealed: bytes) -> bytes:
        """Raises SpoolCorrupt."""
        return self._opened(sealed, _STATE_AD)

    def _sealed(self, plain: bytes, associated_data: bytes) -> bytes:
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt

        nonce = os.urandom(_NONCE)
        return nonce + encrypt(plain, associated_data, nonce, self._key)

    def _opened(self, sealed: bytes, associated_data: bytes) -> bytes:
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
        from nacl.exceptions import CryptoError

        if len(sealed) < _NONCE + _TAG:
            raise SpoolCorrupt(f"a row of {len(sealed)} bytes")
        try:
            return decrypt(sealed[_NONCE:], associated_data, sealed[:_NONCE], self._key)
        except CryptoError:
            raise SpoolCorrupt("a row does not open") from None


def associated(cls: BlockClass, stream: int, first: int) -> bytes:
    """What a row's seal is bound to. Raises SpoolCorrupt where the numbers cannot be a row's."""
    try:
        return _AD.pack(stream, RANK[cls], first)
    except struct.error:
        raise SpoolCorrupt(f"no row has stream {stream} and first {first}") from None


def losses_bytes(block: Block) -> bytes:
    return msgspec.json.encode(block.losses) if block.losses else b""


def stored_bytes(block: Block) -> int:
    """What the block takes of the caps."""
    return ROW_BYTES + _NONCE + _TAG + _HEAD.size + len(losses_bytes(block)) + len(block.records)


def row_bytes(sealed: int) -> int:
    """As `stored_bytes`, of a row whose blob has so many bytes."""
    return ROW_BYTES + sealed
