"""Orders of a gateway over modules and an enforcer that note what they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.agent import commands
from aegis.agent.commands import LINK, Commands
from aegis.agent.held_off import Interrupted
from aegis.agent.link.unsaid import Reply
from aegis.errors import ConfigError, ModuleUnknown, PolicyNotEnforced, PolicyNotFound, PolicyUnenforceable
from aegis.model.module import ModuleState, ModuleStatus
from aegis.protocol.agent_happenings import Order
from aegis.runtime import log as logging
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import Setting
from aegis.runtime.counters import balanced


def applied(name: str, state: str = "enforced") -> dict[str, Any]:
    return {"policy": name, "origin": "gateway", "state": state}


class Host:
    """Modules by state, what was ordered in order, and an enforcer; an order takes as long as `gate` is shut."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.states = {
            "telemetry": ModuleState.RUNNING,
            "observability": ModuleState.RUNNING,
            LINK: ModuleState.RUNNING,
        }
        self.gate = asyncio.Event()
        self.gate.set()
        self.becomes: ModuleState | None = None
        self.reason = ""
        self.busy = self.busiest = 0

    def status(self, name: str) -> ModuleStatus:
        if name not in self.states:
            raise ModuleUnknown(f"there is no module {name}", hint="modules here: telemetry")
        return ModuleStatus(name=name, state=self.states[name], reason=self.reason, since_ns=0, restarts=0)

    def statuses(self) -> tuple[ModuleStatus, ...]:
        return tuple(self.status(name) for name in self.states)

    async def give(self, order: str, name: str) -> ModuleStatus:
        self.status(name)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        await self.gate.wait()
        self.busy -= 1
        self.done.append((order, name))
        meant = {"start": "running", "enable": "running", "stop": "stopped", "disable": "disabled"}[order]
        self.states[name] = self.becomes or ModuleState(meant)
        return self.status(name)

    async def configure(self, name: str, changes: Mapping[str, object]) -> list[Setting]:
        if "wrong" in changes:
            raise ConfigError((("modules.telemetry.wrong", "modules config", "there is no such option"),))
        self.done.append(("configure", name, dict(changes)))
        return [Setting(path=f"modules.{name}.interval_s", value=7.0, origin="modules config")]

    def options(self, name: str) -> list[Setting]:
        return [Setting(path=f"modules.{name}.interval_s", value=5.0, origin="default")]

    def apply(self, document: bytes, name: str = "", *, origin: str = "local") -> dict[str, Any]:
        if b"impossible" in document:
            raise PolicyUnenforceable("spec.egress[0]", "no kernel can")
        self.done.append(("apply", document, origin))
        if b"nowhere" in document:
            kept = applied("p", "not_enforced")
            raise PolicyNotEnforced("p", "kept, and not in force: no interface", partly=False, policy=kept)
        return applied("p")

    def remove(self, name: str, *, origin: str | None = None) -> dict[str, Any]:
        if name != "p":
            raise PolicyNotFound(name, "no policy of this name is applied")
        self.done.append(("remove", name, origin))
        return applied(name)

    def list(self) -> tuple[dict[str, Any], ...]:
        return (applied("p"),)


class Bench:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.host = Host()
        self.replies: list[Reply] = []
        self.unsigned = "accept"
        either: Any = self.host
        self.commands = Commands(
            either,
            either,
            group=group,
            unsigned=lambda: self.unsigned,
            answer=self.replies.append,
            clock=SystemClock(),
            log=logging.logger(),
        )

    def send(self, identity: str, kind: str, channel: str = "modules", **members: Any) -> None:
        self.commands.take(Order(command_id=identity, channel=channel, body={"type": kind, **members}))

    async def answered(self, count: int = 1) -> Reply:
        async with asyncio.timeout(5):
            while len(self.replies) < count:  # noqa: ASYNC110  what is under test knows of no event
                await asyncio.sleep(0)
        return self.replies[count - 1]


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with asyncio.TaskGroup() as group:
        yield Bench(group)


async def test_readings() -> None:
    async with bench() as one:
        one.unsigned = "refuse"
        one.send("1", "list_modules")
        reply = await one.answered()
        assert (reply.in_reply_to, reply.ok, reply.code, reply.policy) == ("1", True, "", False)
        assert (reply.state["count"], reply.state["modules"][0]["name"]) == (3, "telemetry")
        one.send("2", "get_module_status", module_id="telemetry")
        state = (await one.answered(2)).state
        assert (state["state"], state["options"][0]["value"]) == ("running", 5.0)
        one.send("3", "list_policies", channel="policies")
        reply = await one.answered(3)
        assert (reply.policy, reply.state["policies"][0]["policy"]) == (True, "p")
        assert one.host.done == []


async def test_an_order_is_answered_after_the_change() -> None:
    async with bench() as one:
        one.host.gate.clear()
        one.send("1", "stop_module", module_id="telemetry")
        for _ in range(10):
            await asyncio.sleep(0)
        assert one.replies == []
        one.host.gate.set()
        reply = await one.answered()
        assert (reply.ok, reply.text, reply.state["state"]) == (True, "telemetry is stopped", "stopped")
        for number, (kind, state) in enumerate(
            (("start", "running"), ("disable", "disabled"), ("enable", "running")), start=2
        ):
            one.send(str(number), f"{kind}_module", module_id="telemetry")
            assert (await one.answered(number)).state["state"] == state
        assert one.host.done == [(kind, "telemetry") for kind in ("stop", "start", "disable", "enable")]


@pytest.mark.parametrize(
    ("kind", "code"), [("start_module", "module_start_failed"), ("stop_module", "module_stop_timeout")]
)
async def test_an_order_that_came_to_something_else_is_no_success(kind: str, code: str) -> None:
    async with bench() as one:
        one.host.becomes = ModuleState.FAILED
        one.send("1", kind, module_id="telemetry")
        reply = await one.answered()
        assert (reply.ok, reply.code, reply.state["state"]) == (False, code, "failed")


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("start_module", {"module_id": "telemetry"}),
        ("stop_module", {"module_id": "telemetry"}),
        ("enable_module", {"module_id": "telemetry"}),
        ("disable_module", {"module_id": "telemetry"}),
        ("configure_module", {"module_id": "telemetry", "settings": {"interval_s": 1}}),
        ("apply_policy", {"document": {"x": 1}}),
        ("remove_policy", {"name": "p"}),
    ],
)
async def test_orders_nobody_signed_are_refused_unless_the_option_takes_them(
    kind: str, members: dict[str, Any]
) -> None:
    async with bench() as one:
        one.unsigned = "refuse"
        one.send("1", kind, **members)
        reply = await one.answered()
        assert (reply.ok, reply.code, one.host.done) == (False, "policy_unsigned", [])
        assert "policy.unsigned_orders = accept" in reply.text
        one.unsigned = "accept"
        one.send("2", kind, **members)
        assert (await one.answered(2)).ok
        assert len(one.host.done) == 1


async def test_a_policy_that_is_kept_and_enforced_nowhere_is_no_success() -> None:
    async with bench() as one:
        one.send("1", "apply_policy", channel="policies", document={"nowhere": 1})
        reply = await one.answered()
        assert (reply.ok, reply.code, reply.policy) == (False, "policy_not_enforced", True)
        assert "kept, and not in force: no interface" in reply.text
        assert (reply.state["policy"], reply.state["state"]) == ("p", "not_enforced")
        one.send("1", "apply_policy", channel="policies", document={"nowhere": 1})
        assert (await one.answered(2)) == reply  # it was done, and is not done again
        assert len(one.host.done) == 1
        assert one.commands.terms()["link.orders"]["failed"] == 1


@pytest.mark.parametrize("kind", ["stop_module", "disable_module"])
@pytest.mark.parametrize("name", [LINK, "communication"])
async def test_the_link_is_not_ended_over_itself(kind: str, name: str) -> None:
    async with bench() as one:
        one.send("1", kind, module_id=name)
        assert (await one.answered()).code == "would_cut_control"
        assert one.host.done == []


async def test_each_refusal_has_its_code() -> None:
    async with bench() as one:
        for number, (kind, members, code) in enumerate(
            (
                ("make_coffee", {}, "order_unknown"),
                ("stop_module", {}, "order_invalid"),
                ("stop_module", {"module_id": "nonsense"}, "module_unknown"),
                ("configure_module", {"module_id": "telemetry", "settings": {"wrong": 1}}, "config_invalid"),
                ("apply_policy", {"document": {"impossible": 1}}, "policy_unenforceable"),
                ("remove_policy", {"name": "q"}, "policy_not_found"),
            ),
            start=1,
        ):
            one.send(str(number), kind, **members)
            reply = await one.answered(number)
            assert (reply.in_reply_to, reply.ok, reply.code) == (str(number), False, code)
        assert one.host.done == []


async def test_policies_are_of_the_gateways_origin() -> None:
    async with bench() as one:
        one.send("1", "apply_policy", channel="policies", document={"x": 1})
        reply = await one.answered()
        assert (reply.ok, reply.policy, reply.state["policy"]) == (True, True, "p")
        one.send("2", "remove_policy", channel="policies", name="p")
        await one.answered(2)
        assert one.host.done == [("apply", b'{"x":1}', "gateway"), ("remove", "p", "gateway")]


async def test_a_repeated_order_is_answered_again_and_done_once() -> None:
    async with bench() as one:
        one.host.gate.clear()
        for _ in range(3):  # while it is under way
            one.send("1", "stop_module", module_id="telemetry")
        one.host.gate.set()
        first = await one.answered()
        one.send("1", "stop_module", module_id="telemetry")
        assert await one.answered(2) is first
        assert (one.host.done, one.commands.terms()["link.orders"]["repeated"]) == (
            [("stop", "telemetry")],
            3,
        )
        one.send("2", "nonsense")
        one.send("2", "nonsense")
        assert await one.answered(4) == await one.answered(3)


async def test_another_order_with_a_used_id_is_refused_and_not_done() -> None:
    async with bench() as one:
        one.host.gate.clear()
        one.send("1", "stop_module", module_id="telemetry", timestamp=1)
        one.send("1", "start_module", module_id="telemetry")  # while the first is under way
        await one.answered()
        one.host.gate.set()
        await one.answered(2)
        one.send("1", "start_module", module_id="telemetry")
        one.send("1", "list_policies", channel="policies")
        one.send("1", "stop_module", module_id="telemetry", timestamp=2)
        await one.answered(5)
        late, first, other, policies, again = one.replies
        for refused in (late, other, policies):
            assert (refused.ok, refused.code) == (False, "order_invalid")
            assert "another order had the id 1" in refused.text
        assert policies.policy
        assert again is first
        assert first.ok
        assert one.host.done == [("stop", "telemetry")]
        assert one.commands.terms()["link.orders"]["refused"] == 3


async def test_a_refusal_that_carried_nothing_out_is_judged_anew() -> None:
    async with bench() as one:
        one.unsigned = "refuse"
        one.send("1", "stop_module", module_id="telemetry")
        assert (await one.answered()).code == "policy_unsigned"
        one.unsigned = "accept"
        one.host.gate.clear()
        for number in range(commands.MOST_WAITING):
            one.send(f"w{number}", "start_module", module_id="telemetry")
        one.send("1", "stop_module", module_id="telemetry")
        assert (await one.answered(2)).code == "too_many_orders"
        one.host.gate.set()
        await one.answered(commands.MOST_WAITING + 2)
        one.send("1", "stop_module", module_id="telemetry")
        assert (await one.answered(commands.MOST_WAITING + 3)).ok
        assert one.host.done[-1] == ("stop", "telemetry")


async def test_names_nobody_knows_leave_nothing_behind() -> None:
    async with bench() as one:
        one.unsigned = "refuse"
        one.send("known", "get_module_status", module_id="telemetry")
        await one.answered()
        before = sizes(one.commands)
        for number in range(100):
            one.send(str(number), "get_module_status", module_id=f"fresh{number}")
            assert (await one.answered(number + 2)).code == "module_unknown"
        assert sizes(one.commands) == before


async def test_orders_without_an_id_are_each_answered() -> None:
    async with bench() as one:
        for _ in range(2):
            one.send("", "list_modules")
        assert (await one.answered(2)).ok


def sizes(of: Commands) -> dict[str, int]:
    """Of everything it holds."""
    return {name: len(value) for name, value in vars(of).items() if isinstance(value, dict | set | list)}


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MOST_REMEMBERED", 2)
    async with bench() as one:
        for number in range(1, 5):
            one.send(str(number), "stop_module", module_id="telemetry")
            await one.answered(number)
        one.send("4", "stop_module", module_id="telemetry")
        await one.answered(5)
        assert len(one.host.done) == 4
        one.send("1", "stop_module", module_id="telemetry")
        await one.answered(6)
        assert len(one.host.done) == 5


async def test_one_order_at_a_time_for_each_module_and_not_too_many() -> None:
    async with bench() as one:
        one.host.gate.clear()
        for number in range(commands.MOST_WAITING):
            name = "telemetry" if number % 2 else "observability"
            one.send(str(number), "stop_module", module_id=name)
        one.send("more", "stop_module", module_id="telemetry")
        assert (await one.answered()).code == "too_many_orders"
        for _ in range(10):
            await asyncio.sleep(0)
        one.host.gate.set()
        await one.answered(commands.MOST_WAITING + 1)
        assert one.host.busiest == 2
        one.send("after", "stop_module", module_id="telemetry")
        assert (await one.answered(commands.MOST_WAITING + 2)).ok


async def test_a_bug_of_ours_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as one:
        monkeypatch.setattr(one.host, "give", lambda *_: SimpleNamespace().nothing)
        one.send("1", "stop_module", module_id="telemetry")
        reply = await one.answered()
        assert (reply.ok, reply.code) == (False, "aegis_error")
        assert "AttributeError" in reply.text
        one.send("2", "get_module_status", module_id="telemetry")
        assert (await one.answered(2)).ok


async def test_what_becomes_of_orders_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as one:
        one.send("1", "stop_module", module_id="telemetry")
        await one.answered(1)
        one.send("1", "stop_module", module_id="telemetry")  # repeated
        one.host.becomes = ModuleState.FAILED
        one.send("2", "start_module", module_id="telemetry")  # carried out, to no good
        one.send("3", "configure_module", module_id="telemetry", settings={"wrong": 1})
        await one.answered(4)
        monkeypatch.setattr(one.host, "give", lambda *_: SimpleNamespace().nothing)
        one.send("4", "stop_module", module_id="telemetry")  # a bug of ours
        await one.answered(5)
        one.send("5", "nonsense")
        one.send("6", "stop_module", module_id=LINK)
        monkeypatch.undo()
        one.host.gate.clear()
        one.send("7", "stop_module", module_id="observability")
        terms = one.commands.terms()["link.orders"]
        assert terms == {"received": 8, "done": 1, "failed": 3, "refused": 2, "repeated": 1, "under_way": 1}
        assert balanced(commands.IDENTITY, terms)
        one.host.gate.set()


async def test_orders_under_way_are_known_by_what_they_are_about() -> None:
    async with bench() as one:
        one.host.gate.clear()
        one.send("1", "stop_module", module_id="telemetry")
        one.send("", "stop_module", module_id="telemetry")  # nobody could be answered
        one.send("2", "remove_policy", channel="policies", name="p")
        assert one.commands.under_way() == [
            Interrupted(command_id="1", module="telemetry"),
            Interrupted(command_id="2", policy=True),
        ]
        one.host.gate.set()
        await one.answered(3)
        assert one.commands.under_way() == []


async def test_an_order_that_another_agent_began_is_answered_and_not_done() -> None:
    async with bench() as one:
        reply = Reply(in_reply_to="1", ok=False, code="module_spun", text="telemetry held the loop")
        one.commands.answer([reply])
        one.send("1", "stop_module", module_id="telemetry")
        assert (one.replies, one.host.done) == ([reply, reply], [])


async def test_an_answer_says_why_a_module_stands_as_it_does() -> None:
    async with bench() as one:
        one.host.reason = "it held the agent's loop"
        one.host.states["telemetry"] = ModuleState.FAILED
        one.send("1", "configure_module", module_id="telemetry", settings={"interval_s": 7})
        one.send("2", "get_module_status", module_id="telemetry")
        await one.answered(2)
        assert [one.text for one in one.replies] == ["telemetry is failed: it held the agent's loop"] * 2
