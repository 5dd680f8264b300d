"""Modules commanded from the gateway: every command answered after the change, and what breaks says so and alone."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aegis.protocol.orders import IN_PROCESS
from tests.e2e.test_agent_modules import BROKEN, Agent
from tests.e2e.test_agent_spin import answered as states_now
from tests.support.awaiting import await_condition
from tests.support.placed import (
    LINK,
    PlacedGateway,
    at_work,
    connected,
    options,
    placed_gateway,
    seconds_unheard,
)
from tests.support.world import World

pytestmark = [pytest.mark.require("root", "bpf", "tcx"), pytest.mark.timeout(120)]

HEARTBEAT_S = 5.0
BACK_S = 5.0  # of the agent, without the module that spins
OFF = "".join(f"[modules.{name}]\nenabled = false\n" for name in ("raiser", "hanger", "stubborn"))
BODY = """
    import asyncio
    class Module:
        name = "{name}"
        requires = ()
        def __init__(self, context): pass
        async def run(self, ready):
            {run}
"""
STUBBORN = """ready()
            while True:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    pass"""
FAULTS = {
    "fine": BROKEN["fine"],
    "raiser": BODY.format(name="raiser", run="raise ValueError('on order')"),
    "hanger": BODY.format(name="hanger", run="await asyncio.Event().wait()"),
    "stubborn": BODY.format(name="stubborn", run=STUBBORN),
}


SPINNER = """
    import asyncio
    class Module:
        name = "spinner"
        requires = ()
        def __init__(self, context): pass
        def reload(self, config):
            while True: pass
        async def run(self, ready):
            ready()
            await asyncio.Event().wait()
"""


class Watch(threading.Thread):
    """Looks at what the gateway knows of an agent, and keeps the longest silence."""

    def __init__(self, gate: PlacedGateway, uid: str) -> None:
        super().__init__()
        self.longest_s, self.looks = 0.0, 0
        self._gate, self._uid, self._over = gate, uid, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            self.longest_s = max(self.longest_s, seconds_unheard(self._gate, self._uid))
            self.looks += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._over.set()
            self.join()


@pytest.fixture
def gate(world: World, tmp_path: Path) -> Iterator[PlacedGateway]:
    with placed_gateway(tmp_path, world.b) as made:
        yield made


def answered(gate: PlacedGateway, uid: str, kind: str, **members: Any) -> dict[str, Any]:
    """The agent's answer to an order."""
    sent = gate.order(uid, type=kind, **members)
    assert sent["status"] == "answered", sent
    found: dict[str, Any] = sent["answer"]
    return found


def refused(gate: PlacedGateway, uid: str, kind: str, **members: Any) -> tuple[str, str]:
    answer = answered(gate, uid, kind, **members)
    assert answer["ok"] is False, answer
    return answer["code"], answer["text"]


def test_every_command_is_answered_after_the_change(world: World, gate: PlacedGateway) -> None:
    with at_work(Agent(world, options(gate), {"fine": BROKEN["fine"]})) as agent:
        assert isinstance(agent, Agent)
        uid = connected(agent)
        listed = answered(gate, uid, "list_modules")
        assert (listed["ok"], listed["state"]["count"]) == (True, 5)
        assert {row["name"]: row["state"] for row in listed["state"]["modules"]} == agent.states()
        for kind, state in (
            ("get_module_status", "running"),
            ("stop_module", "stopped"),
            ("stop_module", "stopped"),
            ("start_module", "running"),
            ("start_module", "running"),
            ("disable_module", "disabled"),
            ("enable_module", "running"),
        ):
            answer = answered(gate, uid, kind, module_id="telemetry")
            assert (answer["ok"], answer["state"]["state"]) == (True, state), kind
            assert agent.states()["telemetry"] == state, kind
        changed = answered(gate, uid, "configure_module", module_id="fine", settings={"n": 7})
        assert changed["ok"] is True
        assert agent.conditions()["reloaded"]["text"] == "7"
        status, set_ = gate.call("PUT", f"/agents/{uid}/config", {"settings": {"fine": {"n": 8}}})
        assert (status, agent.conditions()["reloaded"]["text"]) == (200, "8"), set_

        for kind in ("stop_module", "disable_module"):
            for name in (LINK, "communication"):
                assert refused(gate, uid, kind, module_id=name)[0] == "would_cut_control"
        assert (
            refused(gate, uid, "configure_module", module_id="fine", settings={"n": -1})[0]
            == "config_invalid"
        )
        assert refused(gate, uid, "start_module", module_id="nonsense")[0] == "module_unknown"
        for kind in sorted(IN_PROCESS):
            code, text = refused(gate, uid, kind)
            assert (code, kind in text) == ("order_unknown", True)
        assert agent.states() == dict.fromkeys(agent.states(), "running") | {"fine": "degraded"}


def test_orders_nobody_signed_are_refused_unless_configured(world: World, gate: PlacedGateway) -> None:
    text = options(gate).replace('unsigned_orders = "accept"', "")
    with at_work(Agent(world, text)) as agent:
        assert isinstance(agent, Agent)
        uid = connected(agent)
        before = agent.states()
        for kind, members in (
            ("start_module", {"module_id": "telemetry"}),
            ("stop_module", {"module_id": "telemetry"}),
            ("enable_module", {"module_id": "telemetry"}),
            ("disable_module", {"module_id": "telemetry"}),
            ("configure_module", {"module_id": "telemetry", "settings": {"interval_s": 7}}),
            ("apply_policy", {"document": {"kind": "HostNetworkPolicy"}}),
            ("remove_policy", {"name": "p"}),
        ):
            code, said = refused(gate, uid, kind, **members)
            assert (code, "policy.unsigned_orders" in said) == ("policy_unsigned", True), kind
        assert agent.states() == before
        assert answered(gate, uid, "list_modules")["ok"] is True


def test_a_module_that_raises_or_hangs_says_so_and_nobody_else_waits(
    world: World, gate: PlacedGateway
) -> None:
    with at_work(Agent(world, options(gate, more=OFF), FAULTS)) as agent:
        assert isinstance(agent, Agent)
        uid = connected(agent)
        watch = Watch(gate, uid)
        hanging: list[tuple[str, str]] = []
        with watch.watching():
            beside = threading.Thread(
                target=lambda: hanging.append(refused(gate, uid, "enable_module", module_id="hanger"))
            )
            beside.start()
            code, text = refused(gate, uid, "enable_module", module_id="raiser")
            assert (code, "ValueError: on order" in text) == ("module_start_failed", True), text
            assert answered(gate, uid, "enable_module", module_id="stubborn")["ok"] is True
            code, text = refused(gate, uid, "stop_module", module_id="stubborn")
            assert (code, "did not stop within" in text) == ("module_stop_timeout", True), text
            while beside.is_alive():  # the others are at work meanwhile, and answer
                begun = time.monotonic()
                assert (
                    answered(gate, uid, "get_module_status", module_id="telemetry")["state"]["state"]
                    == "running"
                )
                assert time.monotonic() - begun < 1
                time.sleep(0.2)
            beside.join()
        ((code, text),) = hanging
        assert (code, "not ready within" in text) == ("module_start_failed", True), text
        assert watch.looks > 50
        assert watch.longest_s <= HEARTBEAT_S + 1
        states = agent.states()
        assert {name for name, state in states.items() if state == "running"} == {
            "advanced_policy", "fine", "observability", "telemetry", LINK,
        }  # fmt: skip


def test_a_module_that_spins_on_an_order_is_left_out_and_the_agent_is_back(
    world: World, gate: PlacedGateway
) -> None:
    modules = {"fine": BROKEN["fine"], "spinner": SPINNER}
    with at_work(Agent(world, options(gate), modules)) as agent:
        assert isinstance(agent, Agent)
        uid = connected(agent)
        sent: list[dict[str, Any]] = []
        order: dict[str, Any] = {"type": "configure_module", "module_id": "spinner", "settings": {"n": 2}}
        beside = threading.Thread(target=lambda: sent.append(gate.order(uid, "8s", **order)))
        begun = time.monotonic()
        beside.start()
        await_condition(lambda: "the agent starts again" in agent.log.read_text())
        states: dict[str, str] = {}
        while len(states) < len(modules) + 4 or "starting" in states.values():
            assert time.monotonic() - begun < 4 * BACK_S, states
            states = states_now(agent)
            time.sleep(0.02)
        took = time.monotonic() - begun
        connected(agent)
        print(f"back after {took:.2f} s, connected after {time.monotonic() - begun:.2f} s")
        assert took <= BACK_S
        assert states == dict.fromkeys(states, "running") | {"spinner": "failed"}
        beside.join()
        assert sent[0]["status"] == "answered", sent  # by the agent that came after
        answer = sent[0]["answer"]
        assert (answer["ok"], answer["code"]) == (False, "module_spun"), answer
        assert re.match(
            r"spinner held the agent's loop for [\d.]+ s from 20\S+Z on, at \S+spinner/module.py:",
            answer["text"],
        )
        assert "the agent started again without it" in answer["text"]
        spun = answered(gate, uid, "get_module_status", module_id="spinner")["state"]
        assert (spun["state"], "it held the agent's loop for" in spun["reason"]) == ("failed", True)
        assert agent.log.read_text().count("the agent starts again") == 1
