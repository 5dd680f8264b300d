"""The door of the Actions API: what is asked of every request before the framework sees it.

Deny by default: a path that is not in `OPEN` needs the operator's token, one that does not exist included. Requests
from pages of a browser (they carry `Origin`) are refused: no origin is allowed yet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aegis.errors import AegisError
from aegis.gateway.api.problems import MEDIA_TYPE, Refusal, encoded, problem_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

LONGEST_PATH = 1024  # bytes, before percent-decoding
LONGEST_QUERY = 8192
LONGEST_CREDENTIAL = 512
OPERATOR = "aegis_operator"  # of the scope's state: whether the caller showed the operator's token

# What anybody may ask. True: a credential that is shown must still be right; False: none is looked at (agents register
# here, before they have any).
OPEN: Mapping[tuple[str, str], bool] = {
    ("GET", "/healthz"): True,
    ("GET", "/readyz"): True,
    ("POST", "/agents/register/init"): False,
    ("POST", "/agents/register/complete"): False,
}

HINT = (
    "send the header `Authorization: Bearer TOKEN`; the operator token is the line in DATA/operator.token of the "
    "gateway's data directory, made at its first start (aegis: --token-file DATA/operator.token)"
)


class Token(Protocol):
    """What is asked of the operator's token: a comparison in constant time."""

    def matches(self, text: str) -> bool: ...


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, token: Token, *, open_routes: Mapping[tuple[str, str], bool] = OPEN) -> None:
        self._app = app
        self._token = token
        self._open = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            operator = self._admit(scope)
        except AegisError as error:
            await refuse(send, error)
            return
        scope.setdefault("state", {})[OPERATOR] = operator
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> bool:
        """Whether the caller is the operator. Raises Refusal for one that may not pass."""
        if len(scope.get("raw_path") or b"") > LONGEST_PATH or len(scope["query_string"]) > LONGEST_QUERY:
            raise Refusal(
                414,
                "uri_too_long",
                f"the path has over {LONGEST_PATH} bytes or the query over {LONGEST_QUERY}",
            )
        shown: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"origin":
                raise Refusal(
                    403,
                    "origin_refused",
                    "requests from web pages are refused",
                    hint="leave out the Origin header: no origin is allowed",
                )
            if name == b"authorization":
                shown.append(value)
        judged = self._open.get((scope["method"], "/" + scope["path"].strip("/")))
        if judged is False or (judged and not shown):
            return False
        self._check(shown)
        return True

    def _check(self, shown: list[bytes]) -> None:
        if not shown:
            raise _unauthorised("credential_missing", "this needs the operator's token", "")
        scheme, _, text = shown[0].partition(b" ")
        if len(shown) > 1 or scheme.lower() != b"bearer" or len(text) > LONGEST_CREDENTIAL:
            raise _unauthorised(
                "credential_invalid", "the credential is not one bearer token", ', error="invalid_request"'
            )
        if not self._token.matches(text.strip().decode("latin-1")):
            raise _unauthorised(
                "credential_invalid",
                "the token is not this gateway's operator token",
                ', error="invalid_token"',
            )


def _unauthorised(code: str, text: str, said: str) -> Refusal:
    return Refusal(401, code, text, hint=HINT, headers={"WWW-Authenticate": f'Bearer realm="aegis"{said}'})


async def refuse(send: Send, error: AegisError) -> None:
    """Answer with the problem of an error, outside the framework. The connection ends: a body may be on its way."""
    problem, headers = problem_of(error)
    body = encoded(problem)
    lines = {
        **headers,
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
