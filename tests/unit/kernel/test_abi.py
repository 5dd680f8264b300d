from __future__ import annotations

import pytest

from aegis._native import _abi
from aegis.errors import AbiMismatch
from aegis.kernel import abi


def test_every_name_of_this_file_is_a_member_of_the_headers() -> None:
    names = [name for name in vars(abi) if name.isupper()]
    assert len(names) > 30
    for name in names:
        assert getattr(abi, name) == getattr(_abi.lib, f"AEGIS_{name}")


def test_every_kind_total_and_verdict_has_its_name() -> None:
    """A member added to a header must be taken up here, or a reader would guess its number."""
    for enum in (
        "aegis_kind",
        "aegis_packet_total",
        "aegis_verdict",
        "aegis_owner_label",
        "aegis_flow_state",
    ):
        for member in abi.enum(enum):
            assert hasattr(abi, member.removeprefix("AEGIS_")), member


def test_pack_and_unpack() -> None:
    data = abi.pack("aegis_flow_key", local_port=8080, remote_port=53, protocol=17, local=bytes(range(16)))
    assert len(data) == abi.struct("aegis_flow_key").size
    view = abi.unpack("aegis_flow_key", data)
    assert (view.local_port, view.remote_port, view.protocol) == (8080, 53, 17)
    assert bytes(view.local) == bytes(range(16))
    assert data[abi.struct("aegis_flow_key").offsets["local_port"] :][:2] == (8080).to_bytes(2, "little")


def test_a_view_of_a_writable_buffer_writes_through() -> None:
    data = bytearray(abi.struct("aegis_control").size)
    abi.unpack("aegis_control", data).epoch = 7
    assert abi.unpack("aegis_control", bytes(data)).epoch == 7
    assert bytes(abi.buffer(abi.unpack("aegis_control", data))) == bytes(data)


def test_too_few_bytes() -> None:
    with pytest.raises(AbiMismatch, match="47 bytes, needs 48"):
        abi.unpack("aegis_constants", bytes(47))


def test_unknown_names() -> None:
    with pytest.raises(AbiMismatch):
        abi.struct("aegis_of_nothing")
    with pytest.raises(AbiMismatch):
        abi.enum("aegis_of_nothing")
    with pytest.raises(AbiMismatch):
        abi._member("AEGIS_OF_NOTHING")


def test_enums_are_in_order_of_value() -> None:
    members = abi.enum("aegis_kind")
    assert list(members.values()) == sorted(members.values())
    assert next(iter(members)) == "AEGIS_KIND_NONE"
