from __future__ import annotations

import pytest

from aegis.gateway.admission import Admission, Bucket
from aegis.gateway.limits import Limits

SECOND = 1_000_000_000


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(2.0, 3.0, 0)
    assert [bucket.take(0) for _ in range(3)] == [0.0] * 3
    assert bucket.take(0) == pytest.approx(0.5)
    assert bucket.take(SECOND // 4) == pytest.approx(0.25)
    assert bucket.take(SECOND // 2) == 0.0
    assert bucket.take(SECOND // 2) > 0
    assert [bucket.take(100 * SECOND) > 0 for _ in range(4)] == [False] * 3 + [True]


def test_of_too_many_sockets_the_oldest_goes() -> None:
    admission = Admission(Limits(unauthenticated=3, unauthenticated_of_address=2), 0)
    assert [admission.arrived(number, "a") for number in (1, 2, 3)] == [None, None, 1]
    assert [admission.arrived(4, "b"), admission.arrived(5, "c")] == [None, 2]
    assert admission.unauthenticated == 3
    admission.settled(3)
    admission.settled(3)
    assert admission.arrived(6, "c") is None
    for number in range(1, 7):
        admission.settled(number)
    assert admission.unauthenticated == 0
    assert not admission._waiting_of


def test_one_address_does_not_use_up_what_all_have() -> None:
    limits = Limits(
        handshakes_s=10, handshakes_burst=10, handshakes_of_address_s=1, handshakes_of_address_burst=2
    )
    admission = Admission(limits, 0)
    assert [admission.handshake("a", 0) is None for _ in range(5)] == [True, True, False, False, False]
    refusal = admission.handshake("a", 0)
    assert refusal is not None
    assert refusal.reason == "handshakes_of_address"
    assert refusal.retry_after_s == pytest.approx(1.0)
    assert [admission.handshake(f"b{n}", 0) is None for n in range(9)] == [True] * 8 + [False]


def test_addresses_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from aegis.gateway import admission as subject

    monkeypatch.setattr(subject, "_MOST_ADDRESSES", 100)
    admission = Admission(Limits(handshakes_s=1e9, handshakes_burst=10**9), 0)
    for n in range(1000):
        admission.handshake(f"a{n}", n * SECOND)
        assert len(admission._rates._of_address) <= 100
    for n in range(1000):
        admission.handshake(f"b{n}", 0)
        assert len(admission._rates._of_address) <= 100
