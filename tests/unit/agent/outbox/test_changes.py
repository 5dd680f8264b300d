"""Sums that must not forget a loss: of evictions, and of the state that is stored."""

from __future__ import annotations

import msgspec

from aegis.agent.outbox.changes import Evicted, State, Totals, eviction_losses, flat, with_evicted
from aegis.agent.outbox.rows import CLASSES
from aegis.model.block import BlockClass

EVENT, FLOW = BlockClass.EVENT, BlockClass.FLOW
FULL, GONE, BROKEN = ("ring", "exec", "full"), ("outbox", "event", "evicted"), ("outbox", "event", "corrupt")


def test_an_eviction_tells_what_it_took_what_did_not_open_and_what_had_been_told_in_it() -> None:
    found = Evicted(whole=Totals(2, 20, 200), broken=Totals(1, 3, 90), losses={FULL: 5, GONE: 7})
    assert eviction_losses(EVENT, found) == {FULL: 5, GONE: 27, BROKEN: 3}
    assert found.losses == {FULL: 5, GONE: 7}  # it may be asked twice
    assert eviction_losses(EVENT, found) == {FULL: 5, GONE: 27, BROKEN: 3}
    assert eviction_losses(EVENT, Evicted()) == {}


def test_losses_of_evictions_are_added_to_those_of_their_class() -> None:
    losses = {EVENT: {GONE: 1, FULL: 1}}
    evicted = {EVENT: Evicted(whole=Totals(1, 4, 9)), FLOW: Evicted(broken=Totals(1, 2, 9))}
    assert with_evicted(losses, evicted) == {
        EVENT: {GONE: 5, FULL: 1},
        FLOW: {("outbox", "flow", "corrupt"): 2},
    }


def test_two_evictions_share_nothing() -> None:
    one, other = Evicted(), Evicted()
    one.whole.add(3, 5)
    one.losses[FULL] = 1
    assert (other.whole, other.losses) == (Totals(), {})
    assert one.whole == Totals(1, 3, 5)


def test_a_state_comes_back_as_it_was_stored() -> None:
    losses = {EVENT: {FULL: 5, GONE: 1}, FLOW: {FULL: 2}}
    state = State(losses=flat(losses))
    assert len(state.put) == len(state.gone) == len(CLASSES)
    state.put[0] += 1
    assert State().put[0] == 0
    back = msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert (back.told(), back.put, back.gone) == (losses, state.put, state.gone)
