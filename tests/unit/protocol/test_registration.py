"""A registration is bound to key, host and holder, completes once, and does not wait for ever."""

from __future__ import annotations

import base64
import gc
import re
import time

import pytest

from aegis.errors import RegistrationRefused
from aegis.protocol import canonical, v1
from aegis.protocol.crypto import Signer, uid_of
from aegis.protocol.payloads import RegistrationCompletion, RegistrationInit, RegistrationOffer
from aegis.protocol.registration import Proven, Registrations
from tests.support.sessions import SECOND, WALL, entropy

ME, OTHER = Signer(bytes(range(32))), Signer(bytes(32))
TEXT = base64.b64encode(ME.public_key).decode()
INIT = RegistrationInit(agent_pubkey=TEXT, host_id="host-1")


def begin(
    table: Registrations, init: RegistrationInit = INIT, holder: str = "1", now_ns: int = 0
) -> RegistrationOffer:
    return table.begin(init, holder=holder, now_ns=now_ns, wall_s=WALL)


def completion(offer: RegistrationOffer, signer: Signer = ME, host: str = "host-1") -> RegistrationCompletion:
    signed = canonical.registration(base64.b64decode(offer.nonce), offer.server_time, host)
    return RegistrationCompletion(offer.registration_id, host, base64.b64encode(signer.sign(signed)).decode())


def refusal(
    table: Registrations, said: RegistrationCompletion, holder: str = "1", now_ns: int = 0
) -> tuple[int, str]:
    with pytest.raises(RegistrationRefused) as caught:
        table.complete(said, holder=holder, now_ns=now_ns)
    return caught.value.status, str(caught.value)


UNKNOWN = (404, "unknown registration")


def test_the_offer() -> None:
    offer = begin(Registrations(entropy=entropy()))
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", offer.registration_id
    )
    assert len(base64.b64decode(offer.nonce)) == 32
    assert offer.server_time == "2023-11-14T22:13:20Z"
    assert v1.SERVER_TIME.fullmatch(offer.server_time)


def test_it_completes_once() -> None:
    table = Registrations(entropy=entropy())
    offer = begin(table)
    proven = table.complete(completion(offer), holder="1", now_ns=1)
    assert isinstance(proven, Proven)
    assert (proven.key, proven.uid, proven.host_id) == (ME.public_key, uid_of(ME.public_key), "host-1")
    assert refusal(table, completion(offer)) == UNKNOWN
    assert len(table) == 0


def test_defaults_of_the_documents() -> None:
    table = Registrations(entropy=entropy())
    init = RegistrationInit(agent_pubkey=TEXT)
    offer = table.begin(init, holder="1", now_ns=0, wall_s=WALL, default_host="start-up")
    proven = table.complete(completion(offer, host="start-up"), holder="1", now_ns=0)
    assert (proven.init.host_id, proven.init.org_id, proven.init.agent_version) == (
        "start-up",
        "default-org",
        "1.0.0",
    )
    assert begin(table, init)
    assert refusal(table, completion(begin(table, init), host="host-1")) == UNKNOWN


@pytest.mark.parametrize("holder", ["2", "", "http"])
def test_another_holder_cannot_complete(holder: str) -> None:
    table = Registrations(entropy=entropy())
    offer = begin(table)
    assert refusal(table, completion(offer), holder=holder) == UNKNOWN
    assert table.complete(completion(offer), holder="1", now_ns=0).uid


def test_another_host_cannot_complete() -> None:
    table = Registrations(entropy=entropy())
    assert refusal(table, completion(begin(table), host="host-2")) == UNKNOWN


def test_another_key_cannot_complete() -> None:
    table = Registrations(entropy=entropy())
    offer = begin(table)
    assert refusal(table, completion(offer, OTHER)) == (401, "signature verify failed")
    assert table.complete(completion(offer), holder="1", now_ns=0).key == ME.public_key


@pytest.mark.parametrize("signature", ["x", "", "AAAA", base64.b64encode(bytes(63)).decode()])
def test_a_signature_that_is_none(signature: str) -> None:
    table = Registrations(entropy=entropy())
    said = RegistrationCompletion(begin(table).registration_id, "host-1", signature)
    assert refusal(table, said) == (400, "bad signature")


@pytest.mark.parametrize(
    "text", ["", "x", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(32)).decode()]
)
def test_a_key_that_is_none(text: str) -> None:
    with pytest.raises(RegistrationRefused, match="bad pubkey") as caught:
        begin(Registrations(entropy=entropy()), RegistrationInit(agent_pubkey=text))
    assert caught.value.status == 400


def test_a_host_with_control_characters() -> None:
    with pytest.raises(RegistrationRefused, match="bad host_id"):
        begin(Registrations(entropy=entropy()), RegistrationInit(agent_pubkey=TEXT, host_id="a\nb"))


def test_it_waits_a_minute() -> None:
    table = Registrations(entropy=entropy())
    early, late = begin(table), begin(table, holder="2")
    assert table.complete(completion(early), holder="1", now_ns=60 * SECOND - 1)
    assert refusal(table, completion(late), holder="2", now_ns=60 * SECOND) == UNKNOWN
    assert len(table) == 0


def test_one_for_each_holder_and_key() -> None:
    table = Registrations(entropy=entropy())
    first, second = begin(table), begin(table)
    assert len(table) == 1
    assert refusal(table, completion(first)) == UNKNOWN
    assert table.complete(completion(second), holder="1", now_ns=0)


def test_the_table_is_bounded_and_the_oldest_goes() -> None:
    table = Registrations(entropy=entropy(), capacity=3)
    offers = [begin(table, holder=str(number)) for number in range(4)]
    assert len(table) == 3
    assert refusal(table, completion(offers[0]), holder="0") == UNKNOWN
    assert table.complete(completion(offers[3]), holder="3", now_ns=0)


def test_a_holder_that_is_gone_leaves_nothing() -> None:
    table = Registrations(entropy=entropy())
    offers = [begin(table, holder=holder) for holder in ("1", "2")]
    table.forget("1")
    assert refusal(table, completion(offers[0])) == UNKNOWN
    assert table.complete(completion(offers[1]), holder="2", now_ns=0)


def test_what_waits_is_bounded_in_bytes() -> None:
    table = Registrations(entropy=entropy(), most_bytes=20_000)
    large = RegistrationInit(agent_pubkey=TEXT, host_id="host-1", network={"a": "x" * 4000})
    offers = [begin(table, large, holder=str(number)) for number in range(10)]
    assert len(table) == 4
    assert table.waiting_bytes <= 20_000
    assert refusal(table, completion(offers[0]), holder="0") == UNKNOWN
    assert table.complete(completion(offers[9]), holder="9", now_ns=0).init.network == large.network
    for number in range(10):
        table.forget(str(number))
    assert (len(table), table.waiting_bytes) == (0, 0)


def test_what_waits_holds_no_objects() -> None:
    """A list of 2,000 lists is 6 KB of text, and 110 KB as objects: only the text may wait."""
    table = Registrations(entropy=entropy())
    init = RegistrationInit(agent_pubkey=TEXT, host_id="host-1", capabilities=[[] for _ in range(1000)])
    begin(table, init)
    alive = [each for each in gc.get_referrers(init.capabilities) if each is not init]
    assert not [each for each in alive if isinstance(each, RegistrationInit)]


def test_one_holder_pushes_out_its_own_first() -> None:
    table = Registrations(entropy=entropy(), of_holder=2)
    keys = [base64.b64encode(Signer(bytes([n]) * 32).public_key).decode() for n in range(1, 6)]
    honest = begin(table, holder="2")
    for key in keys:
        begin(table, RegistrationInit(agent_pubkey=key, host_id="h"), holder="1")
    assert len(table) == 3
    assert table.complete(completion(honest), holder="2", now_ns=0)


def test_an_end_looks_at_its_own_only() -> None:
    table = Registrations(entropy=entropy(), capacity=20_000, most_bytes=1 << 30)
    for number in range(10_000):
        begin(table, holder=str(number))
    started = time.perf_counter()
    for _ in range(1000):
        table.forget("nobody")
    assert time.perf_counter() - started < 0.1
