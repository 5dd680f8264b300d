"""What stands inside envelopes: strict where a member decides something, tolerant where deployed peers need it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from aegis.errors import EnvelopeInvalid
from aegis.model.block import BlockClass
from aegis.protocol import base64text, payloads, v1
from tests.support.deployed import packed

BOOT = bytes(range(16))
BATCH = {"kind": "events", "stream": 1, "first": 0, "boot_id": BOOT.hex(), "items": [{"a": 1}]}
AUTH = {"agent_id": "a", "public_key": "k", "timestamp": 1, "nonce": "n", "signature": "s"}


def batch(**changed: Any) -> bytes:
    return json.dumps({name: value for name, value in (BATCH | changed).items() if value is not ...}).encode()


# ---- the text around


def test_a_payload_is_base64() -> None:
    assert payloads.unpacked(packed({"a": 1}), "x", 100) == b'{"a": 1}'
    with pytest.raises(EnvelopeInvalid, match=r"^x: "):
        payloads.unpacked('{"a": 1}', "x", 100)


@pytest.mark.parametrize(("size", "holds"), [(99, True), (100, True), (103, False), (10_000, False)])
def test_a_payload_has_a_size(size: int, holds: bool) -> None:
    text = base64.b64encode(bytes(size)).decode()
    if holds:
        assert len(payloads.unpacked(text, "x", 100)) == size
        return
    with pytest.raises(EnvelopeInvalid, match="x: is larger than 100 bytes"):
        payloads.unpacked(text, "x", 100)


@pytest.mark.parametrize("text", ['{"a":1}', '\r\n {"a":1}\n', packed({"a": 1})])
def test_raw_json_or_base64(text: str) -> None:
    assert json.loads(payloads.unpacked_or_raw(text, "x", 100)) == {"a": 1}


# ---- authentication


def test_an_authentication() -> None:
    assert payloads.read_auth(packed(AUTH | {"unknown": {}})) == payloads.AuthRequest(**AUTH)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AUTH)
@pytest.mark.parametrize("value", [..., None, [], {}, True, 1.5, "x" * 257])
def test_every_member_of_an_authentication_is_needed(name: str, value: object) -> None:
    said = {key: each for key, each in (AUTH | {name: value}).items() if each is not ...}
    with pytest.raises(EnvelopeInvalid, match=rf"^auth: .*{name}"):
        payloads.read_auth(packed(said))


@pytest.mark.parametrize("literal", ["-1", "1.0", '"1"', "9223372036854775808", "01"])
def test_the_time_of_an_authentication(literal: str) -> None:
    text = json.dumps(AUTH).replace('"timestamp": 1', f'"timestamp": {literal}')
    with pytest.raises(EnvelopeInvalid, match=r"^auth: "):
        payloads.read_auth(base64.b64encode(text.encode()).decode())


@pytest.mark.parametrize(
    ("mark", "wanted"),
    [
        ({"v": 1, "batches": True}, payloads.Mark(1, batches=True)),
        ({"v": 1, "batches": True, "shared": True}, payloads.Mark(1, batches=True, shared=True)),
        ({"v": 1, "batches": True, "shared": 1}, None),
        ({"v": 1, "batches": True, "of_later": 1}, payloads.Mark(1, batches=True)),
        ({"v": 1, "registered": False}, payloads.Mark(1, registered=False)),
        ({"v": 2, "batches": True}, None),
        ("yes", None),
        (None, None),
        ({"batches": True}, None),
        ({"v": 1, "batches": 1}, None),
    ],
)
def test_the_mark_of_our_gateway(mark: object, wanted: payloads.Mark | None) -> None:
    response, found = payloads.read_auth_response(packed({"success": True, "aegis": mark}))
    assert response.success
    assert found == wanted


@pytest.mark.parametrize(
    "said",
    [{}, {"success": 1}, {"success": "true"}, {"success": None}, [], {"success": True, "expires_at": 1.5}],
)
def test_success_is_a_boolean(said: object) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^auth: "):
        payloads.read_auth_response(packed(said))


def test_tokens_are_not_in_what_is_printed() -> None:
    response, _ = payloads.read_auth_response(packed({"success": True, "session_token": "SECRET"}))
    reply = payloads.read_reply(packed({"agent_uid": "u", "bootstrap_token": "SECRET"}))
    assert response.session_token == reply.bootstrap_token == "SECRET"
    assert "SECRET" not in f"{response!r} {reply!r} {response} {reply}"


# ---- registration


@pytest.mark.parametrize(
    ("capabilities", "ours"),
    [
        ({"aegis": {"v": 1}}, True),
        ({"aegis": {"v": 2}}, False),
        ({"aegis": {"v": True}}, False),
        ({"aegis": 1}, False),
        ({}, False),
        (["aegis"], False),
        (None, False),
    ],
)
def test_who_is_ours(capabilities: object, ours: bool) -> None:
    init = payloads.read_init(packed({"agent_pubkey": "k", "capabilities": capabilities}))
    assert init.is_ours is ours


@pytest.mark.parametrize("name", ["agent_pubkey", "public_key"])
def test_both_names_of_the_key(name: str) -> None:
    assert payloads.read_init(packed({name: "k"})).key_text == "k"


@pytest.mark.parametrize(
    "said",
    [{"platform": []}, {"network": "x"}, {"host_id": 1}, {"host_id": "x" * 256}, [], {"capabilities": "x"}],
)
def test_a_registration_of_other_types(said: object) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^registration: "):
        payloads.read_init(packed(said))


def test_a_registration_has_a_size_over_http_too() -> None:
    body = json.dumps({"agent_pubkey": "k", "machine_id_hash": "", "platform": {"x": "y" * 65536}}).encode()
    for read in (payloads.read_init, payloads.read_completion):
        with pytest.raises(EnvelopeInvalid, match="larger than 65536"):
            read(body)


@pytest.mark.parametrize("name", ["registration_id", "host_id", "signature"])
@pytest.mark.parametrize("value", [..., None, "", 1, "x" * 257])
def test_every_member_of_a_completion_is_needed(name: str, value: object) -> None:
    said = {"registration_id": "r", "host_id": "h", "signature": "s"} | {name: value}
    with pytest.raises(EnvelopeInvalid, match=rf"^completion: .*{name}"):
        payloads.read_completion(packed({key: each for key, each in said.items() if each is not ...}))


# ---- batches


def test_a_batch_goes_and_comes() -> None:
    items = b'[{"a":1}, {"b":"\xc3\xa9]"}]'
    losses = (("outbox", "event", "evicted", 7),)
    text = base64text.encode(payloads.batch_content("events", 3, 9, BOOT, items, losses))
    kind, data = payloads.read_kind(text)
    assert kind == "events"
    found = payloads.read_batch(data, kind)
    assert (found.stream, found.first, found.boot, tuple(found.losses)) == (3, 9, BOOT, losses)
    assert [bytes(each) for each in found.items] == [b'{"a":1}', b'{"b":"\xc3\xa9]"}']


def test_a_batch_without_losses_has_the_five_members_of_the_documents() -> None:
    text = base64text.encode(payloads.batch_content("flows", 1, 0, BOOT, b"[]"))
    assert list(json.loads(base64.b64decode(text))) == ["kind", "stream", "first", "boot_id", "items"]


def test_what_items_share_goes_with_them() -> None:
    text = base64text.encode(
        payloads.batch_content("events", 3, 9, BOOT, b'[{"a":1,"shared":0}]', (), b'[{"b":"\xc3\xa9"}]')
    )
    found = payloads.read_batch(payloads.read_kind(text)[1], "events")
    assert [bytes(each) for each in found.shared] == [b'{"b":"\xc3\xa9"}']
    assert [bytes(each) for each in found.items] == [b'{"a":1,"shared":0}']
    assert payloads.read_batch(batch(), "events").shared == []


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        ([1], r"shared\[0\] is no object"),
        ([{}, []], r"shared\[1\] is no object"),
        ([None], r"shared\[0\] is no object"),
        ({}, "shared"),
        (None, "shared"),
        ([{}] * (v1.BATCH_SHARED + 1), "shared"),
        ([json.loads('{"a":' * 31 + "1" + "}" * 31)], r"shared\[0\] is nested deeper than 32"),
        ([{"a": "x" * (v1.BATCH_BYTES + v1.BATCH_ROOM)}], "larger than 131072"),
    ],
)
def test_what_items_share_is_some_objects(shared: object, words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=rf"^batch: .*{words}"):
        payloads.read_batch(batch(shared=shared), "events")


def test_as_much_as_items_may_share() -> None:
    deep = json.loads('{"a":' * 30 + "1" + "}" * 30)
    found = payloads.read_batch(batch(shared=[{}] * (v1.BATCH_SHARED - 1) + [deep]), "events")
    assert len(found.shared) == v1.BATCH_SHARED


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize("value", [..., None, True, -1, 1.0, 1 << 63, {}, "x"])
def test_every_member_of_a_batch_is_needed(name: str, value: object) -> None:
    with pytest.raises(EnvelopeInvalid, match=rf"^batch: .*{name}"):
        payloads.read_batch(batch(**{name: value}), "events")


@pytest.mark.parametrize("item", ["1", "[]", "null", '"x"', "1.5", "true"])
def test_an_item_is_an_object(item: str) -> None:
    data = batch(items=[{"a": 1}]).replace(b"}]", b"}, " + item.encode() + b"]")
    with pytest.raises(EnvelopeInvalid, match=r"^batch: items\[1\] is no object"):
        payloads.read_batch(data, "events")


@pytest.mark.parametrize(
    "item",
    [b'{"a":01}', b'{"a":NaN}', b'{"a":"\x01"}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":1,}', b"{"],
)
def test_an_item_is_json_though_nobody_decodes_it(item: bytes) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^batch: "):
        payloads.read_batch(batch().replace(b'{"a": 1}', item), "events")


@pytest.mark.parametrize(("count", "holds"), [(0, True), (512, True), (513, False)])
def test_items_are_at_most_512(count: int, holds: bool) -> None:
    if holds:
        assert len(payloads.read_batch(batch(items=[{}] * count), "events").items) == count
        return
    with pytest.raises(EnvelopeInvalid, match="items"):
        payloads.read_batch(batch(items=[{}] * count), "events")


def test_a_batch_has_at_most_128_kib_of_items_and_room_for_the_members_around_them() -> None:
    most = v1.BATCH_BYTES + v1.BATCH_ROOM
    around = len(batch(items=[{"a": ""}]))
    fits = batch(items=[{"a": "x" * (most - around)}])
    assert len(fits) == most
    assert payloads.read_batch(fits, "events")
    with pytest.raises(EnvelopeInvalid, match="batch: is larger than 131072"):
        payloads.read_batch(batch(items=[{"a": "x" * (most - around + 1)}]), "events")


def test_items_are_not_deep() -> None:
    item: dict[str, Any] = {}
    for _ in range(33):
        item = {"a": item}
    with pytest.raises(EnvelopeInvalid, match="deeper than 32"):
        payloads.read_batch(batch(items=[item]), "events")


@pytest.mark.parametrize("boot_id", ["", "00", "x" * 32, "00" * 15 + " 0", "00" * 17, "0 " * 16])
def test_a_boot_id_is_16_bytes_in_hex(boot_id: str) -> None:
    with pytest.raises(EnvelopeInvalid, match="boot_id"):
        payloads.read_batch(batch(boot_id=boot_id), "events")


def test_a_sequence_ends_somewhere() -> None:
    with pytest.raises(EnvelopeInvalid, match="first is beyond"):
        payloads.read_batch(batch(first=(1 << 63) - 1), "events")


def test_a_second_kind_does_not_count() -> None:
    data = (
        b'{"kind":"events","stream":1,"first":0,"boot_id":"%s","items":[],"kind":"flows"}'
        % BOOT.hex().encode()
    )
    kind, same = payloads.read_kind(base64.b64encode(data).decode())
    with pytest.raises(EnvelopeInvalid, match="kind is not events"):
        payloads.read_batch(same, kind or "")


@pytest.mark.parametrize(
    ("said", "kind"),
    [({"kind": "x"}, "x"), ({}, None), ({"a": 1, "kind": "state"}, "state"), ({"kind": None}, None)],
)
def test_the_kind_of_a_message(said: object, kind: str | None) -> None:
    assert payloads.read_kind(packed(said))[0] == kind


# ---- down


def test_an_acknowledgement_is_written_as_the_documents_have_it() -> None:
    ack = payloads.Ack(type="ack", cls=BlockClass.EVENT, stream=2, next_=9)
    text = payloads.encode(ack)
    assert json.loads(text) == {"type": "ack", "class": "event", "stream": 2, "next": 9}
    assert payloads.read_ack(text) == ack


@pytest.mark.parametrize(
    "changed", [{"type": "x"}, {"class": "x"}, {"stream": -1}, {"next": 1.0}, {"next": None}, {"class": None}]
)
def test_an_acknowledgement_of_something_else(changed: dict[str, object]) -> None:
    said = {"type": "ack", "class": "event", "stream": 2, "next": 9} | changed
    with pytest.raises(EnvelopeInvalid, match=r"^ack: "):
        payloads.read_ack(json.dumps(said).encode())


@pytest.mark.parametrize("text", [b'{"a":1}', b' \n{"a":1}', base64.b64encode(b'{"a":1}')])
def test_a_push_is_base64_of_json_or_json(text: bytes) -> None:
    assert payloads.read_push(text) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"x", base64.b64encode(b"[]"), base64.b64encode(b"x"), b"\xff", b'{"a":1e999}', b'{"a":'],
)
def test_a_push_of_anything_else(text: bytes) -> None:
    with pytest.raises(EnvelopeInvalid, match=r"^push: "):
        payloads.read_push(text)


# ---- errors


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            '{"error":"e","message":"no handler for channel: x","code":4002,"retry_after":1}',
            "no handler for channel: x",
        ),
        (packed({"error": "e", "message": "in base64"}), "in base64"),
        (
            '{"error":"e","message":"Actions API error: 400 bad pubkey\n","code":4002}',
            "Actions API error: 400 bad pubkey",
        ),
        ('{"error":"e","message":"bad "quoted" word","code":4002,"retry_after":1}', 'bad "quoted" word'),
        ('{"error":"e","message":"nul \0 inside","code":4002}', "nul inside"),
        ("opaque text", "opaque text"),
        ('{"message":5}', "5}"),
        ("", ""),
        ("\x1b[31mred\x1b[0m\r\nline", "[31mred [0m line"),
        ("\ud800x", "x"),
    ],
)
def test_the_text_of_an_error_however_it_was_made(payload: str, text: str) -> None:
    assert payloads.read_error(payload) == text


def test_the_text_of_an_error_is_short() -> None:
    assert len(payloads.read_error("x" * 100_000)) == 512


@pytest.mark.parametrize("name", ["capabilities", "platform", "network"])
def test_what_an_agent_tells_of_itself_is_bounded(name: str) -> None:
    def told(length: int) -> bytes:
        return json.dumps({"agent_pubkey": "k", name: {"a": "x" * (length - 8)}}, indent=8).encode()

    assert getattr(payloads.read_init(told(4096)), name)
    with pytest.raises(EnvelopeInvalid, match=f"registration: {name} is larger than 4096 bytes"):
        payloads.read_init(told(4097))
