from __future__ import annotations

from aegis.kernel.names_limits import describe_names
from aegis.kernel.names_resolvers import Resolvers
from tests.support import dns

PLAIN = Resolvers(addresses=(dns.mapped("192.0.2.53"), dns.mapped("2001:db8::53")))
STUB = Resolvers(addresses=(dns.mapped("127.0.0.53"),))


def line(
    name: str, resolvers: Resolvers = PLAIN, counts: dict[str, int] | None = None, **more: object
) -> tuple[str, str]:
    rows = describe_names(resolvers, counts or {}, **{"loopback": False, **more})  # type: ignore[arg-type]
    (row,) = [row for row in rows if row.name == name]
    return row.state, row.reason


def test_resolvers() -> None:
    rows = describe_names(PLAIN, {}, loopback=False)
    assert (rows[0].name, rows[0].state, rows[0].source) == ("names", "ok", "192.0.2.53, 2001:db8::53")
    assert line("names", Resolvers(addresses=()))[0] == "missing"
    assert line("names", Resolvers(addresses=PLAIN.addresses, left_out=("x is no address",))) == (
        "degraded",
        "x is no address",
    )


def test_a_stub_needs_the_loopback() -> None:
    assert line("names", STUB)[0] == "degraded"
    assert "loopback" in line("names", STUB)[1]
    assert line("names", STUB, loopback=True) == ("ok", "")


def test_room() -> None:
    assert line("names_room") == ("ok", "")
    assert line("names_room", counts={"table_full": 3, "slots_full": 2}) == (
        "degraded",
        "3 addresses found no room; 2 times an address stood for four kinds of names already",
    )


def test_names_without_an_address_are_told() -> None:
    assert not [row for row in describe_names(PLAIN, {}, loopback=False) if row.name == "names_unresolved"]
    many = {f"n{number}.test": "it has no address" for number in range(10)}
    state, reason = line("names_unresolved", unresolved=many)
    assert state == "degraded"
    assert reason.startswith("n0.test: it has no address; n1.test")
    assert reason.endswith("; and 2 more")


def test_what_nothing_changes_is_stated() -> None:
    reasons = " ".join(row.reason for row in describe_names(PLAIN, {}, loopback=False))
    for word in ("DoH", "DoT", "mDNS", "/etc/hosts", "CDN", "fragments", "TCP"):
        assert word in reasons
