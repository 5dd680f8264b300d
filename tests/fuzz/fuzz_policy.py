"""Any bytes as a policy document: a policy, or every problem with its line; the language says the same twice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARSERS = (
    "aegis/model/policy_document.py",
    "aegis/model/policy_rules.py",
    "aegis/model/document_parser.py",
    "aegis/model/document.py",
)


def one(data: bytes) -> None:
    from aegis.errors import PolicyError
    from aegis.model.policy_document import examine, parse_document

    policy, problems = examine(data)
    assert (policy is None) == bool(problems)
    refused: PolicyError | None = None
    read: Any = None
    try:
        read = parse_document(data)
    except PolicyError as error:
        refused = error
    if refused is not None:
        assert (refused.code, str(refused)) == (problems[0].code, str(problems[0]))
        assert "\n" not in str(refused)
    else:
        assert read == policy
        assert read.document == data
        assert all(rule.path for rule in read.rules)
    lines = data.count(b"\n") + data.count(b"\r") + data.count("\u0085".encode()) + 1
    lines += data.count("\u2028".encode()) + data.count("\u2029".encode())
    assert all(problem.line is None or 0 < problem.line <= lines + 1 for problem in problems), problems


if __name__ == "__main__":
    from tests.fuzz.entry import main

    main("policy")
