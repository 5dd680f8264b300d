from __future__ import annotations

from aegis.agent.link.unsaid import Change, Reply, Unsaid


def reply(name: str) -> Reply:
    return Reply(in_reply_to=name, ok=True)


def change(name: str, state: str) -> Change:
    return Change(subject=("module", name), state={"state": state})


def everything(unsaid: Unsaid) -> list[Reply | Change]:
    found = []
    while (one := unsaid.next()) is not None:
        found.append(one)
        unsaid.said(one)
    return found


def test_answers_go_first_and_each_is_said_once() -> None:
    unsaid = Unsaid()
    state, first, second = change("a", "running"), reply("1"), reply("2")
    unsaid.change(state)
    unsaid.answer(first)
    unsaid.answer(second)
    assert unsaid.next() is first
    assert unsaid.next() is first  # nothing took it
    assert everything(unsaid) == [first, second, state]
    assert unsaid.next() is None


def test_of_one_subject_only_the_newest_is_told() -> None:
    unsaid = Unsaid()
    for one in (change("a", "starting"), change("b", "failed"), change("a", "running")):
        unsaid.change(one)
    assert everything(unsaid) == [change("b", "failed"), change("a", "running")]


def test_what_changed_while_it_was_being_said_is_said_again() -> None:
    unsaid = Unsaid()
    old, new = change("a", "starting"), change("a", "running")
    unsaid.change(old)
    unsaid.change(new)
    unsaid.said(old)
    assert everything(unsaid) == [new]


def test_room_is_bounded_and_what_is_dropped_counted() -> None:
    unsaid = Unsaid(most_answers=2)
    for name in "1234":
        unsaid.answer(reply(name))
    assert (everything(unsaid), unsaid.dropped) == ([reply("3"), reply("4")], 2)


def test_an_answer_dropped_while_it_was_being_said_costs_no_other() -> None:
    unsaid = Unsaid(most_answers=1)
    first, second = reply("1"), reply("2")
    unsaid.answer(first)
    unsaid.answer(second)
    unsaid.said(first)
    assert everything(unsaid) == [second]


def test_answers_outlive_a_connection_and_states_do_not() -> None:
    unsaid = Unsaid()
    unsaid.change(change("a", "running"))
    unsaid.answer(reply("1"))
    unsaid.forget_changes()
    assert everything(unsaid) == [reply("1")]
