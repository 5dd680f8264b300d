"""What a refused request is answered: problem details (RFC 9457) with a stable code and, where there is one, a hint.

Every error becomes one in `problem_of`, the only place that knows which status an error of ours has. What is not ours
becomes `internal_error` without a word of it; its text goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from aegis.errors import (
    AegisError,
    AgentUnknown,
    NotBuilt,
    PermissionDenied,
    ProtocolError,
    QueryInvalid,
    RegistrationRefused,
    StorageError,
    TransportError,
)
from aegis.runtime.log import logger

MEDIA_TYPE = "application/problem+json"
LONGEST_DETAIL = 400  # characters; what a client sent is quoted only that far

_log = logger(part="actions_api")
_encode = msgspec.json.Encoder().encode


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong member or parameter: `at` names it."""

    at: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every refusal. `code` is stable; `detail` is for people and may change."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None = None
    errors: tuple[FieldProblem, ...] = ()


class Refusal(AegisError):
    """A request that broke a rule of this API: `status` and `code` as told, `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: tuple[FieldProblem, ...] = (),
    ) -> None:
        super().__init__(text, hint=hint)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.errors = errors


# What the framework itself refuses: code and text of each status.
_FRAMEWORK: dict[int, tuple[str, str]] = {
    400: ("request_invalid", "the request cannot be read"),
    404: ("not_found", "there is no such path; GET /openapi.json lists them"),
    405: ("method_not_allowed", "this path does not take that method"),
    413: ("body_too_large", "the body is over its limit of 1 MiB (64 KiB for a registration)"),
}

# Our errors by class, the most specific first. Anything else of ours is a refusal the caller can read: 409.
_STATUS_BY_CLASS: tuple[tuple[type[AegisError], int], ...] = (
    (AgentUnknown, 404),
    (QueryInvalid, 400),
    (PermissionDenied, 403),
    (NotBuilt, 501),
    (ProtocolError, 422),
    (StorageError, 503),
    (TransportError, 503),
)


def status_of(error: AegisError) -> int:
    """The HTTP status of an error of ours."""
    if isinstance(error, Refusal | RegistrationRefused):
        return error.status
    return next((status for kind, status in _STATUS_BY_CLASS if isinstance(error, kind)), 409)


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem a client is shown for an exception, and the headers that go with it."""
    if isinstance(error, AegisError):
        headers = error.headers if isinstance(error, Refusal) else {}
        errors = error.errors if isinstance(error, Refusal) else ()
        return made(status_of(error), error.code, str(error), hint=error.hint, errors=errors), headers
    if isinstance(error, ValidationException):
        return _of_validation(error), {}
    if isinstance(error, HTTPException) and error.status_code < 500:
        status = error.status_code
        code, text = _FRAMEWORK.get(status, ("request_invalid", HTTPStatus(status).phrase.lower()))
        return made(status, code, text), {}
    if isinstance(error, HTTPException) and error.detail == "client disconnected prematurely":
        return made(400, "request_invalid", "the body ended before its announced length"), {}
    _log.error("a request failed", kind=type(error).__name__, error=error, at=_last_line(error))
    return made(500, "internal_error", "the gateway failed; its log says how"), {}


def made(
    status: int, code: str, detail: str, *, hint: str | None = None, errors: tuple[FieldProblem, ...] = ()
) -> Problem:
    """A problem of that status; the title is the status's own."""
    return Problem(
        type=f"urn:aegis:error:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=_cut(detail),
        hint=hint,
        errors=errors,
    )


def encoded(problem: Problem) -> bytes:
    """The body of the answer."""
    return _encode(problem)


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    problem, headers = problem_of(error)
    if problem.status == 405:
        headers = {"Allow": ", ".join(methods_of(request))}
    return Response(encoded(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def methods_of(request: Request[Any, Any, Any]) -> list[str]:
    """What the path of a request may be asked with."""
    parts = request.scope["path"].strip("/").split("/")
    found: set[str] = set()
    for route in request.app.routes:
        wanted = route.path_format.strip("/").split("/")
        if len(wanted) == len(parts) and all(
            one.startswith("{") or one == given for one, given in zip(wanted, parts, strict=True)
        ):
            found |= {str(method) for method in getattr(route, "methods", ())}
    return sorted(found)


def _of_validation(error: ValidationException) -> Problem:
    """Wrong parameters: each is named. (Bodies are judged before this, by `requests.ApiRequest`.)"""
    found = []
    body_missing = False
    for one in error.extra if isinstance(error.extra, list) else ():
        said = one if isinstance(one, dict) else {}
        body_missing = body_missing or said.get("key") == "data"
        found.append(
            FieldProblem(at=_cut(str(said.get("key", ""))), detail=_cut(str(said.get("message", "wrong"))))
        )
    if body_missing:
        return made(400, "json_invalid", "the request needs a JSON body")
    return made(400, "query_invalid", "a parameter is missing or wrong", errors=tuple(found))


def _last_line(error: BaseException) -> str:
    """File and line of ours or the framework's that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"
