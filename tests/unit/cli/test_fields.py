"""The fields a user may name are those of the model, and a wrong one is refused with the known."""

from __future__ import annotations

import json

import click
import msgspec
import pytest
from click.testing import CliRunner

from aegis.cli.events import _SYMBOLS, TYPES, events
from aegis.cli.fields import check_fields, known_fields
from aegis.cli.flows import TABLE_COLUMNS, flows
from aegis.model import event, flow


def test_types_of_events_are_the_models() -> None:
    assert TYPES == event.TYPES
    assert set(_SYMBOLS) == set(event.TYPES)


def test_fields_of_a_flow_are_the_models() -> None:
    assert known_fields("flow") == {"schema", "agent_uid", *flow.Flow.__struct_fields__}
    assert set(TABLE_COLUMNS) <= known_fields("flow")


def test_fields_of_an_event_are_those_of_every_type() -> None:
    lost = event.LossEvent(time_ns=1, stage="ring", kind="exec", reason="full", count=2)
    assert set(json.loads(event.encode(lost))) <= known_fields("event")
    for document in (event.ProcessDocument, event.ExitDocument, event.SocketDocument, event.VerdictDocument):
        assert {field.encode_name for field in msgspec.structs.fields(document)} <= known_fields("event")
    assert "fork" not in known_fields("event")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (flows, ["--sort", "-nothing"]),
        (flows, ["--filter", "nothing==1"]),
        (flows, ["--not", "nothing==1"]),
        (flows, ["--fields", "src,nothing"]),
        (flows, ["--exclude-fields", "nothing"]),
        (events, ["--filter", "nothing==1"]),
        (events, ["--fields", "pid,nothing"]),
        (events, ["--exclude-fields", "nothing"]),
    ],
)
def test_unknown_field_is_refused_naming_the_known(command: click.Command, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments, obj="/nowhere")
    assert result.exit_code == 2, result.output
    assert "unknown field 'nothing'; known: " in result.output
    assert " pid, " in result.output
    assert "pid_reason" not in result.output


def test_known_fields_pass() -> None:
    check_fields("flow", ("tcp_flags", "unit_reason"), ("pid==1", "unit~x"))
    check_fields("event", (), ())
