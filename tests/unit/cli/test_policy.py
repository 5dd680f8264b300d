"""`aegis policy` without an agent: what is wrong with the question is said before anybody is asked."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from aegis.cli.policy import policy

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
