from __future__ import annotations

from pathlib import Path

from aegis.kernel.names_resolvers import MOST, find_resolvers, is_local, parse_resolv_conf
from tests.support import dns

CONF = """\
# nameserver 203.0.113.9
search example.com
nameserver 192.0.2.53
nameserver\tfe80::53%eth0
; nameserver 203.0.113.8
nameserver
options edns0
nameserver 2001:db8::53 trailing
"""


def test_nameserver_lines() -> None:
    assert parse_resolv_conf(CONF) == ("192.0.2.53", "fe80::53", "2001:db8::53")


def test_those_named_come_first(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(CONF)
    found = find_resolvers(["198.51.100.1", "192.0.2.53"], conf=conf, behind=())
    texts = ("198.51.100.1", "192.0.2.53", "fe80::53", "2001:db8::53")
    assert found.addresses == tuple(map(dns.mapped, texts))
    assert not found.stub
    assert found.left_out == ()


def test_behind_a_stub(tmp_path: Path) -> None:
    conf, behind = tmp_path / "resolv.conf", tmp_path / "behind.conf"
    conf.write_text("nameserver 127.0.0.53\n")
    behind.write_text("nameserver 192.0.2.7\n")
    found = find_resolvers(conf=conf, behind=(tmp_path / "none", behind))
    assert found.addresses == (dns.mapped("127.0.0.53"), dns.mapped("192.0.2.7"))
    assert found.stub
    conf.write_text("nameserver 192.0.2.8\n")
    assert find_resolvers(conf=conf, behind=(behind,)).addresses == (dns.mapped("192.0.2.8"),)


def test_without_a_line_it_is_this_host(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search example.com\n")
    assert find_resolvers(conf=conf, behind=()).addresses == (dns.mapped("127.0.0.1"), dns.mapped("::1"))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    found = find_resolvers(["192.0.2.1"], conf=tmp_path / "none", behind=())
    assert found.addresses[0] == dns.mapped("192.0.2.1")
    assert found.left_out == (f"{tmp_path / 'none'}: No such file or directory",)
    conf = tmp_path / "resolv.conf"
    conf.write_bytes(b"nameserver \xff\xfe\nnameserver 192.0.2.2\n")
    found = find_resolvers(conf=conf, behind=())
    assert found.addresses == (dns.mapped("192.0.2.2"),)
    assert "is no address" in found.left_out[0]


def test_no_more_than_the_kernel_has_room_for(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("".join(f"nameserver 192.0.2.{number}\n" for number in range(1, MOST + 4)))
    found = find_resolvers(conf=conf, behind=())
    assert len(found.addresses) == MOST
    assert found.left_out == (f"3 resolvers beyond {MOST}",)


def test_loopback() -> None:
    assert [is_local(dns.mapped(text)) for text in ("127.0.0.53", "::1", "192.0.2.1", "fe80::1")] == [
        True,
        True,
        False,
        False,
    ]
