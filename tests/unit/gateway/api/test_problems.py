from __future__ import annotations

import json

import pytest
from litestar.exceptions import HTTPException, NotFoundException, ValidationException

from aegis.errors import (
    AegisError,
    AgentUnknown,
    EnvelopeInvalid,
    ModuleUnknown,
    NotBuilt,
    PermissionDenied,
    QueryInvalid,
    RegistrationRefused,
    StorageError,
)
from aegis.gateway.api.problems import LONGEST_DETAIL, Refusal, encoded, problem_of


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AgentUnknown("no"), 404, "agent_unknown"),
        (QueryInvalid("no"), 400, "query_invalid"),
        (PermissionDenied("no"), 403, "permission_denied"),
        (RegistrationRefused("no", status=429), 429, "registration_refused"),
        (StorageError("no"), 503, "storage_error"),
        (NotBuilt("no"), 501, "not_built"),
        (EnvelopeInvalid("no"), 422, "envelope_invalid"),
        (ModuleUnknown("no"), 409, "module_unknown"),
        (AegisError("no"), 409, "aegis_error"),
        (Refusal(418, "teapot", "no"), 418, "teapot"),
        (NotFoundException(detail="/secret"), 404, "not_found"),
        (HTTPException(status_code=400, detail="secret"), 400, "request_invalid"),
        (HTTPException(status_code=500, detail="secret"), 500, "internal_error"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
def test_each_error_has_its_status_and_keeps_its_code(error: Exception, status: int, code: str) -> None:
    problem, _ = problem_of(error)
    assert (problem.status, problem.code, problem.type) == (status, code, f"urn:aegis:error:{code}")
    assert "secret" not in problem.detail


def test_a_client_that_goes_away_is_no_failure_of_ours() -> None:
    problem, _ = problem_of(HTTPException(status_code=500, detail="client disconnected prematurely"))
    assert problem.status == 400


def test_what_a_client_sent_is_quoted_only_so_far() -> None:
    problem, _ = problem_of(QueryInvalid("x" * 10_000))
    assert len(problem.detail) == LONGEST_DETAIL


def test_wrong_parameters_are_each_named() -> None:
    error = ValidationException(extra=[{"key": "limit", "message": "Expected `int` >= 1"}])
    problem, _ = problem_of(error)
    assert json.loads(encoded(problem))["errors"] == [{"at": "limit", "detail": "Expected `int` >= 1"}]


def test_hint_and_headers_go_along() -> None:
    problem, headers = problem_of(
        Refusal(401, "c", "t", hint="do this", headers={"WWW-Authenticate": "Bearer"})
    )
    assert json.loads(encoded(problem)) == {
        "type": "urn:aegis:error:c", "title": "Unauthorized", "status": 401, "code": "c", "detail": "t", "hint": "do this",
    }  # fmt: skip
    assert headers == {"WWW-Authenticate": "Bearer"}
