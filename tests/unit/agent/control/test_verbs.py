from __future__ import annotations

from typing import Any

import pytest

from aegis.agent.control.verbs import VERBS, Verb, Verbs
from aegis.errors import EnvelopeInvalid, ModuleError

TABLE = (Verb(name="take", help="h", args={"n": int, "s": str, "b": bool}, required=("s",), changes=True),)


async def answer(args: dict[str, Any]) -> list[object]:
    return [args, 2]


async def test_a_verb_is_answered_while_somebody_does() -> None:
    verbs = Verbs(TABLE)
    with pytest.raises(ModuleError, match="nobody answers take now"):
        verbs.find("take", {"s": "x"})
    with verbs.answer("take", answer):
        verb, stream = verbs.find("take", {"s": "x"})
        assert verb.changes
        assert [item async for item in stream({"s": "x"})] == [{"s": "x"}, 2]
        with pytest.raises(LookupError), verbs.answer("take", answer):
            pass
    with pytest.raises(ModuleError):
        verbs.find("take", {"s": "x"})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "s is missing"),
        ({"s": 1}, "s must be a string"),
        ({"s": "x", "n": True}, "n must be a whole number"),
        ({"s": "x", "n": "1"}, "n must be a whole number"),
        ({"s": "x", "b": 1}, "b must be true or false"),
        ({"s": "x", "z": 1}, "z is unknown"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], said: str) -> None:
    verbs = Verbs(TABLE)
    with verbs.answer("take", answer), pytest.raises(EnvelopeInvalid, match=said):
        verbs.find("take", args)


async def test_a_module_may_bring_a_reading_verb_of_its_own() -> None:
    verbs = Verbs(TABLE)
    with pytest.raises(EnvelopeInvalid, match="no verb 'own'"):
        verbs.find("own", {})
    with verbs.answer("own", answer):
        verb, _ = verbs.find("own", {"anything": 1})
        assert not verb.changes


def test_the_table_is_sound() -> None:
    names = [verb.name for verb in VERBS]
    assert len(set(names)) == len(names)
    for verb in VERBS:
        assert verb.help.endswith(".")
        assert set(verb.required) <= set(verb.args)
    changing = {verb.name for verb in VERBS if verb.changes}
    assert changing == {
        name
        for name in names
        if name.split(".")[-1] in {"apply", "remove", "confirm", "rollback"}
        or (name.startswith("modules.") and name not in {"modules.list", "modules.config"})
    }
    for verb in VERBS:
        assert set(verb.changing_args) <= set(verb.args)


def test_showing_options_is_a_question_and_setting_them_an_order() -> None:
    (config,) = (verb for verb in VERBS if verb.name == "modules.config")
    assert not config.changes_with({"name": "telemetry"})
    assert config.changes_with({"name": "telemetry", "set": {}})
    (apply,) = (verb for verb in VERBS if verb.name == "policy.apply")
    assert apply.changes_with({})
