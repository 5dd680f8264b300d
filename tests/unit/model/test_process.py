from __future__ import annotations

import msgspec
import pytest

from aegis.kernel import abi
from aegis.model.absent import Absent
from aegis.model.process import OWNER_PID_BITS, Ancestor, OwnerLabel, Process, legible, owner_key, readable


def process(**fields: object) -> Process:
    known: dict[str, object] = {
        "pid": 71,
        "start_ns": 5_000_000_123,
        "ppid": 1,
        "uid": 0,
        "gid": 0,
        "comm": b"cat",
        "exe": b"/bin/cat",
        "args": b"cat\0-\0",
        "args_total": 6,
        "cwd": b"/",
        "cgroup": Absent("not here"),
        "ancestors": (),
    }
    return Process(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        (b"", []),
        (b"\0", [""]),
        (b"a\0", ["a"]),
        (b"a\0\0", ["a", ""]),
        (b"\0\0\0", ["", "", ""]),
        (b"a\0b\0", ["a", "b"]),
        (b"a\0cut of", ["a", "cut of"]),
        (b"\xff\0\x1b[1m\n\0", ["\\xff", "\x1b[1m\n"]),
    ],
)
def test_arguments(args: bytes, argv: list[str]) -> None:
    assert process(args=args, args_total=len(args)).argv() == argv


def test_truncation_is_a_fact_of_the_lengths() -> None:
    assert not process().args_truncated
    assert process(args_total=7).args_truncated
    absent = process(args=Absent("gone"), args_total=0)
    assert absent.argv() is None
    assert not absent.args_truncated


def test_readable_keeps_what_is_text_and_shows_what_is_not() -> None:
    assert readable("snow ☃\n".encode()) == "snow ☃\n"
    assert readable(b"caf\xe9 \xff") == "caf\\xe9 \\xff"
    assert msgspec.json.encode(readable(b"\xed\xa0\x80"))  # a lone surrogate in UTF-8 is no text


def test_owner_key_is_the_kernels() -> None:
    assert owner_key(71, 5_000_000_123) == (5_000_000_123 // 1024 * 4_194_304 + 71)
    after_half_a_year = 182 * 86_400 * 10**9
    assert owner_key(4_194_303, after_half_a_year) < 1 << 64
    assert owner_key(4_194_303, after_half_a_year) & ((1 << OWNER_PID_BITS) - 1) == 4_194_303


def test_every_label_of_the_header_is_one_here() -> None:
    names = [name.removeprefix("AEGIS_OWNER_").lower() for name in abi.enum("aegis_owner_label")]
    assert [label.value for label in OwnerLabel] == names[:-1]
    assert names[-1] == "process"
    assert all(label.reason for label in OwnerLabel)


def test_as_ancestor() -> None:
    parent = process()
    assert parent.as_ancestor() == Ancestor(pid=71, start_ns=5_000_000_123, comm=b"cat", exe=b"/bin/cat")
    assert parent.key == owner_key(71, 5_000_000_123)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/mnt/a", "/mnt/a"),
        ("/mnt/\u00e9\U0001f600", "/mnt/\u00e9\U0001f600"),
        ("/mnt/\udcff\u00e9", "/mnt/\\xff\u00e9"),
        ("half \ud800", "half \\ud800"),
        ("half \ud800\udcff", "half \\ud800\\udcff"),
    ],
)
def test_legible_text_can_be_encoded(text: str, shown: str) -> None:
    assert legible(text) == shown
    assert legible(text).encode()
