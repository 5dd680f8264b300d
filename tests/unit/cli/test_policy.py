"""`aegis policy` without an agent: what is wrong with the question is said before anybody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aegis.cli import policy as verbs
from aegis.cli.policy import policy
from aegis.errors import PolicyInvalid

NOBODY = "/nonexistent/agent.sock"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol", "TCP", "--dst", "10.0.0.256"], "dst '10.0.0.256' is no address"),
        (["--protocol", "TCP", "--dst", "example.org"], "dst 'example.org' is no address"),
        (["--protocol", "XYZ", "--dst", "10.0.0.1"], "protocol 'XYZ' is unknown"),
        (["--protocol", "TCP", "--src", "::1", "--direction", "egress"], "dst is missing"),
        (['{"protocol": "tcp", "dst": 7}'], "dst must be"),
        (['{"protocol": "tcp", "dst": "10.0.0.1", "dst_port": 70000}'], "dst_port must be from 0 to 65535"),
        (["[1]"], "not an object"),
        (["{"], "not a JSON object"),
        ([], "name at least"),
    ],
)
def test_a_wrong_five_tuple_is_usage(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(policy, ["explain", *arguments], obj=NOBODY)
    assert done.exit_code == 2
    assert said in done.output


def test_a_right_five_tuple_is_asked() -> None:
    done = CliRunner().invoke(policy, ["explain", "--protocol", "tcp", "--dst", "10.0.0.1"], obj=NOBODY)
    assert done.exit_code != 2
    assert "no agent answers" in str(done.exception)


def test_a_list_tells_of_policies_that_are_not_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"rule": "egressDeny[0]", "direction": "egress", "deny": True, "packets": 0, "bytes": 0}
    one: dict[str, Any] = {
        "policy": "p",
        "mode": "enforce",
        "priority": 5,
        "origin": "local",
        "state": "not_enforced",
        "reason": "no interface carries the packet programs",
        "rules": [rule, rule],
    }
    rows = [one, one | {"policy": "q"}]
    monkeypatch.setattr(verbs, "request", lambda *_, **__: iter(rows))
    done = CliRunner().invoke(policy, ["list"], obj=NOBODY)
    assert done.exit_code == 0
    assert done.stderr == "aegis: no interface carries the packet programs\n"
    head, *lines = done.stdout.splitlines()
    assert head.split()[-1] == "STATE"
    assert [line.split()[-1] for line in lines] == ["not_enforced"] * 4
    rows = [one | {"state": "enforced", "reason": None}]
    assert CliRunner().invoke(policy, ["list"], obj=NOBODY).stderr == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: 1\nb: \xff\n", "document (line 2): is not UTF-8: invalid start byte (#xff at byte 8)"),
        (b"a: " + b"x" * (32 << 20), "document: has more than 33554432 bytes"),
    ],
)
def test_what_is_no_text_is_refused_alike_by_check_and_apply(tmp_path: Path, data: bytes, said: str) -> None:
    """By apply before anybody is asked."""
    file = tmp_path / "p.yaml"
    file.write_bytes(data)
    checked = CliRunner().invoke(policy, ["check", str(file)], obj=NOBODY)
    assert (checked.exit_code, checked.output) == (6, f"aegis: policy_invalid: {file}: {said}\n")
    applied = CliRunner().invoke(policy, ["apply", str(file)], obj=NOBODY)
    assert isinstance(applied.exception, PolicyInvalid)
    assert str(applied.exception) == f"{file}: {said}"


def test_of_a_file_without_end_only_the_beginning_is_read() -> None:
    done = CliRunner().invoke(policy, ["check", "/dev/zero"], obj=NOBODY)
    assert done.exit_code == 6
    assert "has more than 33554432 bytes" in done.output


def test_what_one_request_does_not_hold_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    for text in (b"a: " + b"x" * 1_000_000, b"\n" * 500_001):
        file.write_bytes(text)
        applied = CliRunner().invoke(policy, ["apply", str(file)], obj=NOBODY)
        assert isinstance(applied.exception, PolicyInvalid)
        assert str(applied.exception).endswith(
            "than 1000000 bytes in a request, which is what an agent takes"
        )
