"""Attributes and messages as bytes; errors as the kernel words them."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import HostError
from aegis.host import netlink


def test_attributes_are_padded_and_come_back() -> None:
    data = netlink.text(3, "veth0") + netlink.number(4, 1500) + netlink.nested(18, netlink.text(1, "x"))
    assert len(data) % 4 == 0
    found = netlink.attributes(data)
    assert netlink.string(found[3]) == "veth0"
    assert struct.unpack("=I", found[4]) == (1500,)
    assert netlink.string(netlink.attributes(found[18])[1]) == "x"


@pytest.mark.parametrize("length", [0, 3, 9, 65535])
def test_an_attribute_of_a_senseless_length_is_refused(length: int) -> None:
    with pytest.raises(HostError, match="attribute of"):
        netlink.attributes(struct.pack("=HH", length, 1) + b"abcd")


@pytest.mark.parametrize("length", [0, 15, 21, 2**32 - 1])
def test_a_message_of_a_senseless_length_is_refused(length: int) -> None:
    with pytest.raises(HostError, match="netlink message of"):
        list(netlink.messages("x", struct.pack("=IHHII", length, 1, 0, 0, 0) + b"abcd"))


@given(st.binary(max_size=200))
def test_any_bytes_are_attributes_or_an_error(data: bytes) -> None:
    try:
        found = netlink.attributes(data)
    except HostError:
        return
    assert sum(len(value) + 4 for value in found.values()) <= len(data)


def test_a_name_that_is_no_text_is_kept_readable() -> None:
    assert netlink.string(b"eth\xff\0tail") == "eth\\xff"


def test_a_refusal_carries_errno_and_the_kernels_words() -> None:
    with netlink.Netlink() as socket, pytest.raises(HostError) as caught:
        socket.get("read link", 18, struct.pack("=BxHiII", 0, 0, 2**31 - 1, 0, 0))
    assert caught.value.errno == errno.ENODEV
    assert str(caught.value).startswith("read link: No such device")


def test_a_closed_socket_says_so() -> None:
    socket = netlink.Netlink()
    socket.close()
    socket.close()
    with pytest.raises(HostError, match="Bad file descriptor"):
        socket.dump("list", 18, b"")
