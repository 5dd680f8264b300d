"""Numbers out of text that nobody vouches for."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from aegis.errors import HostError
from aegis.host import procfs


def test_a_file_longer_than_a_page_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 200_003)
    assert len(procfs.read(str(path))) == 200_003
    with pytest.raises(HostError, match="longer than 100000 bytes"):
        procfs.read(str(path), 100_000)


def test_a_file_of_the_kernel_in_many_records_is_read_whole() -> None:
    assert procfs.read("/proc/self/mountinfo") == Path("/proc/self/mountinfo").read_bytes()


def test_what_is_missing_is_named_with_its_errno(tmp_path: Path) -> None:
    for act in (procfs.read, procfs.listing, procfs.link):
        with pytest.raises(HostError, match="nothing") as caught:
            act(str(tmp_path / "nothing"))
        assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(("text", "value"), [(b"0", 0), (b"007", 7), (b"18446744073709551615", 2**64 - 1)])
def test_numbers(text: bytes, value: int) -> None:
    assert procfs.number(text, "f") == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"1.0",
        b"0x1",
        b"1e3",
        b"1_0",
        b"18446744073709551616",
        b"9" * 5000,
        b"\xd9\xa3",
    ],
)
def test_what_is_no_number(text: bytes) -> None:
    with pytest.raises(HostError, match=r"f: .* is no number") as caught:
        procfs.number(text, "f")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", [b"", b"1", b"nan", b"inf", b"-0.5", b"1.2.3", b"1e5", b"0.", b".5"])
def test_what_is_no_decimal(text: bytes) -> None:
    assert procfs.decimal(b"12.34", "f") == 12.34
    with pytest.raises(HostError):
        procfs.decimal(text, "f")


def test_escapes_of_a_mount_table() -> None:
    assert procfs.unescape(rb"/mnt/a\040b\011c\134d") == b"/mnt/a b\tc\\d"
    assert procfs.unescape(rb"/plain") == b"/plain"
    assert procfs.unescape(rb"/not\999") == rb"/not\999"
