from __future__ import annotations

from aegis.agent.link import standing
from aegis.model.health import Condition
from aegis.model.module import ModuleState, ModuleStatus


def test_a_module() -> None:
    change = standing.of_module(
        ModuleStatus(
            name="telemetry", state=ModuleState.FAILED, reason="why", since_ns=1_000_000_000, restarts=2
        )
    )
    assert change.subject == ("module", "telemetry")
    assert change.state == {
        "what": "module",
        "name": "telemetry",
        "state": "failed",
        "reason": "why",
        "since": "1970-01-01T00:00:01.000000000Z",
        "since_ns": 1_000_000_000,
    }


def test_a_condition_that_begins_and_its_end_are_of_one_subject() -> None:
    condition = Condition(code="records_lost", source="agent", since_ns=0, text="t", hint="h")
    begins, ends = (standing.of_condition(condition, holds=holds) for holds in (True, False))
    assert begins.subject == ends.subject == ("condition", "agent", "records_lost")
    assert (begins.state["holds"], ends.state["holds"]) == (True, False)
    assert {key: begins.state[key] for key in ("what", "code", "source", "text", "hint")} == {
        "what": "condition",
        "code": "records_lost",
        "source": "agent",
        "text": "t",
        "hint": "h",
    }
