"""Sealing: published vectors, PyNaCl's bindings as the reference, nonces that never repeat, a key that goes away."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from aegis._native.seal import KEY_BYTES, TAG_BYTES, NonceExhausted, Seal, SealBroken, SealError

KEY = bytes(range(0x80, 0xA0))
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: "
    b"If I could offer you only one tip for the future, sunscreen would be it."
)
AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
IETF = b"\0\0\0\0"

prefixes = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
counters = st.integers(0, 2**64 - 64)


def reference(message: bytes, ad: bytes, prefix: bytes, counter: int, key: bytes) -> bytes:
    """The pure form: one message through PyNaCl's bindings."""
    nonce = prefix + counter.to_bytes(8, "little")
    if len(prefix) == 4:
        return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(message, ad, nonce, key)
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(message, ad, nonce, key)


def test_vector_of_rfc_8439() -> None:
    """Section 2.8.2: nonce 07000000 || 4041424344454647."""
    counter = int.from_bytes(bytes.fromhex("4041424344454647"), "little")
    sealed = bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
    start: dict[str, Any] = {"sealed": counter, "opened": counter, "limit": 2**64 - 1}
    with Seal(KEY, bytes.fromhex("07000000"), **start) as seal:
        assert seal.seal_many([SUNSCREEN], [AD]) == [sealed]
        assert seal.open_many([sealed], [AD]) == [SUNSCREEN]


def test_vector_of_the_xchacha_draft() -> None:
    """draft-irtf-cfrg-xchacha-03, A.3.1: nonce 4041 ... 5657."""
    nonce = bytes(range(0x40, 0x58))
    counter = int.from_bytes(nonce[16:], "little")
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
    )
    with Seal(KEY, nonce[:16], sealed=counter, limit=2**64 - 1) as seal:
        assert seal.seal_many([SUNSCREEN], [AD]) == [sealed]


@given(
    key=st.binary(min_size=32, max_size=32),
    prefix=prefixes,
    counter=counters,
    messages=st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=40)), max_size=7),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_every_form_is_the_reference(
    key: bytes,
    prefix: bytes,
    counter: int,
    messages: list[tuple[bytes, bytes]],
    kind: Callable[[bytes], Any],
) -> None:
    plain = [kind(message) for message, _ in messages]
    ads = [kind(ad) for _, ad in messages]
    expected = [reference(message, ad, prefix, counter + n, key) for n, (message, ad) in enumerate(messages)]
    start: dict[str, Any] = {"sealed": counter, "opened": counter, "limit": 2**64 - 1}
    with Seal(key, prefix, **start) as many, Seal(key, prefix, **start) as into:
        assert many.seal_many(plain, ads) == expected
        room = bytearray(sum(map(len, expected)) + 3)
        assert into.seal_into(plain, room, ads) == len(room) - 3
        assert bytes(room) == b"".join(expected) + bytes(3)
        assert many.sealed == into.sealed == counter + len(messages)

        assert many.open_many([kind(each) for each in expected], ads) == [bytes(each) for each in plain]
        opened = bytearray(sum(map(len, plain)) + 5)
        assert into.open_into(expected, opened, ads) == len(opened) - 5
        assert bytes(opened) == b"".join(map(bytes, plain)) + bytes(5)
        assert many.opened == into.opened == counter + len(messages)


def test_a_batch_above_the_lock_threshold_is_the_same() -> None:
    messages = [os.urandom(size) for size in (70_001, 1, 0, 131_071)]
    with Seal(KEY) as seal:
        room = bytearray(sum(map(len, messages)) + TAG_BYTES * 4)
        seal.seal_into(messages, room)
        expected = [reference(message, b"", IETF, n, KEY) for n, message in enumerate(messages)]
        assert bytes(room) == b"".join(expected)
        opened = bytearray(sum(map(len, messages)))
        seal.open_into(expected, opened)
        assert bytes(opened) == b"".join(messages)


def test_threads_sharing_a_seal_never_share_a_counter() -> None:
    message = bytes(80_021)
    with Seal(KEY) as seal, ThreadPoolExecutor(7) as pool:

        def work(_: int) -> bytes:
            room = bytearray(len(message) + TAG_BYTES)
            seal.seal_into([message], room)
            return bytes(room)

        sealed = list(pool.map(work, range(101)))
        expected = {reference(message, b"", IETF, n, KEY) for n in range(101)}
        assert set(sealed) == expected
        assert seal.sealed == 101


@pytest.mark.parametrize("bit", [0, 7, 8 * 31, 8 * 31 + 5, 8 * 46 + 7])
def test_one_flipped_bit_is_refused_and_nothing_counted(bit: int) -> None:
    with Seal(KEY) as seal:
        sealed = seal.seal_many([b"a" * 31] * 5)
        broken = bytearray(sealed[3])
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken) as caught:
            seal.open_many([*sealed[:3], broken, sealed[4]])
        assert caught.value.index == 3
        room = bytearray(b"x" * 31 * 5)
        with pytest.raises(SealBroken):
            seal.open_into([*sealed[:3], broken, sealed[4]], room)
        assert room == bytes(31 * 5)  # no verified neighbour is left lying about either
        assert seal.opened == 0
        assert seal.open_many(sealed) == [b"a" * 31] * 5


def test_only_the_very_next_message_opens() -> None:
    with Seal(KEY) as seal:
        sealed = seal.seal_many([b"0", b"1", b"2"], [b"", b"ad", b""])
        for wrong in (sealed[1], sealed[2], b"", b"short", sealed[0] + b"\0"):
            with pytest.raises(SealBroken):
                seal.open_many([wrong])
        assert seal.open_many([sealed[0]]) == [b"0"]
        with pytest.raises(SealBroken):
            seal.open_many([sealed[0]])  # a replay
        with pytest.raises(SealBroken):
            seal.open_many([sealed[1]], [b"da"])
        assert seal.open_many(sealed[1:], [b"ad", b""]) == [b"1", b"2"]


def test_counters_end_and_do_not_turn_over() -> None:
    with Seal(KEY, sealed=2**48 - 3) as seal:
        with pytest.raises(NonceExhausted):
            seal.seal_many([b""] * 4)
        assert len(seal.seal_many([b""] * 3)) == 3
        for refused in (lambda: seal.seal_many([b""]), lambda: seal.seal_into([b""], bytearray(16))):
            with pytest.raises(NonceExhausted):
                refused()
        assert seal.seal_many([]) == []
        assert seal.sealed == seal.limit == 2**48
    with Seal(KEY, opened=2**64 - 1, limit=2**64 - 1) as seal, pytest.raises(NonceExhausted):
        seal.open_many([bytes(16)])
    for number in (-1, 2**64):
        with pytest.raises(OverflowError):
            Seal(KEY, sealed=number)


def test_a_failed_batch_spends_no_counter_before_it_is_checked() -> None:
    with Seal(KEY) as seal:
        for bad, error in (
            (lambda: seal.seal_many([b"", None]), TypeError),  # type: ignore[list-item]
            (lambda: seal.seal_many([b""], []), ValueError),
            (lambda: seal.seal_into([b"abc"], bytearray(18)), ValueError),
            (lambda: seal.seal_into([b"abc"], bytes(19)), (BufferError, TypeError)),
            (lambda: seal.seal_many(["text"]), TypeError),  # type: ignore[list-item]
        ):
            with pytest.raises(error):
                bad()
        assert seal.sealed == 0


@pytest.mark.parametrize("shift", [-16, -1, 0, 1, 99])
def test_output_over_a_message_is_refused(shift: int) -> None:
    buffer = bytearray(400)
    with Seal(KEY) as seal:
        with pytest.raises(ValueError, match="overlaps"):
            seal.seal_into([memoryview(buffer)[100:200]], memoryview(buffer)[100 + shift :])
        seal.seal_into([memoryview(buffer)[100:200]], memoryview(buffer)[200:])


@pytest.mark.parametrize(
    ("key", "prefix"), [(KEY[:-1], IETF), (KEY + b"\0", IETF), (KEY, b""), (KEY, bytes(5)), (KEY, bytes(24))]
)
def test_keys_and_prefixes_have_their_sizes(key: bytes, prefix: bytes) -> None:
    with pytest.raises(SealError, match="bytes"):
        Seal(key, prefix)


def test_a_closed_seal_does_nothing_more() -> None:
    seal = Seal(KEY)
    seal.close()
    seal.close()
    for use in (
        lambda: seal.seal_many([b""]),
        lambda: seal.open_many([bytes(16)]),
        lambda: seal.seal_into([b""], bytearray(16)),
        lambda: seal.open_into([bytes(16)], bytearray()),
    ):
        with pytest.raises(SealError, match="closed"):
            use()


def test_arguments_cannot_close_the_seal_under_the_work() -> None:
    with Seal(KEY) as seal:

        def hostile() -> Any:
            yield b"first"
            seal.close()

        with pytest.raises(SealError, match="at work"):
            seal.seal_many(hostile())
        assert seal.seal_many([b"x"])  # still whole, and free again
    with pytest.raises(SealError, match="closed"):
        seal.seal_many([b"x"])


def test_a_seal_is_not_copied() -> None:
    with Seal(KEY) as seal:
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copying(seal)


def test_a_forked_child_does_not_seal() -> None:
    script = f"""
import os
from aegis._native.seal import Seal, SealError
seal = Seal({KEY!r})
child = os.fork()
try:
    seal.seal_many([b"x"])
    result = 3
except SealError:
    result = 7
if child == 0:
    os._exit(result)
assert result == 3
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_there_is_one_libsodium_and_the_key_is_only_in_its_guarded_memory() -> None:
    """Read from outside: the child's whole memory holds the key once while the seal is open, nowhere after."""
    script = """
import os, sys
from aegis._native.seal import Seal
import nacl.bindings
key = bytearray(32)
os.readv(0, [key])
seal = Seal(key)
for index in range(32):
    key[index] = 0
os.write(1, b"open\\n")
os.read(0, 1)
seal.seal_many([b"x"])
seal.close()
os.write(1, b"shut\\n")
os.read(0, 1)
"""
    key = os.urandom(KEY_BYTES)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(key)
        assert child.stdout.readline() == b"open\n"
        with open(f"/proc/{child.pid}/maps") as maps:
            libraries = {line.split()[-1] for line in maps if "sodium" in line}
        assert len(libraries) == 1
        assert occurrences(child.pid, key) == 1
        child.stdin.write(b"1")
        assert child.stdout.readline() == b"shut\n"
        assert occurrences(child.pid, key) == 0
        child.stdin.write(b"1")
    assert child.returncode == 0


def occurrences(pid: int, needle: bytes) -> int:
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if "[v" in line:  # vvar and vdso are the kernel's
                continue
            try:
                memory.seek(start)
                found += memory.read(end - start).count(needle)
            except (OSError, OverflowError):  # guard pages, device memory
                continue
    return found


def test_sealing_leaves_no_memory_behind() -> None:
    messages = [bytes(n) for n in range(0, 997, 83)]
    views = [memoryview(message) for message in messages]
    references = sys.getrefcount(messages[3]), sys.getrefcount(views[3])

    def use() -> None:
        with Seal(KEY) as seal:
            for ads in (None, views):
                sealed = seal.seal_many(messages, ads)
                seal.open_many(sealed, ads)
            with pytest.raises(SealBroken):
                seal.open_into(sealed, bytearray(20_000))
            seal.seal_into(views, bytearray(20_000), views)

    for _ in range(3):
        use()
    gc.collect()
    tracemalloc.start()
    try:
        use()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in itertools.repeat(None, 29):
            use()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2000
    assert (sys.getrefcount(messages[3]), sys.getrefcount(views[3])) == references
