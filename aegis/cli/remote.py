"""The tool's end of the Actions API: one JSON request, one answer, over http.client of the standard library.

Refusals keep the gateway's own code. Who does not answer is ConnectFailed or ConnectionLost, as on the control socket.
"""

from __future__ import annotations

import http.client
import json
import os
import stat
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

from aegis.cli.client import AgentError
from aegis.errors import ConnectFailed, ConnectionLost, PermissionDenied

CONNECT_S = 5.0
ANSWER_S = 30.0
MOST_ANSWER_BYTES = 64 << 20
_HOW = "name the gateway's Actions API with --gateway http://HOST:8083"


class Remote:
    """A gateway by its address and the operator's token. One connection, made when it is first needed."""

    def __init__(self, url: str, token_file: str | None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        plain = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or not plain:
            raise click.UsageError(f"--gateway {url!r} is not http://HOST:PORT or https://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port or (443 if self._secure else 8083)
        self._token = None if token_file is None else read_token(token_file)
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, wait_s: float = 0) -> Any:
        """The JSON a path answers. `query` values that are None are left out, lists are repeated."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        tail = f"?{urlencode(given, doseq=True)}" if given else ""
        return self._ask("GET", path + tail, None, wait_s)

    def send(self, method: str, path: str, body: object, *, wait_s: float = 0) -> Any:
        """The JSON that a path answers to a body."""
        return self._ask(method, path, json.dumps(body).encode(), wait_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, target: str, body: bytes | None, wait_s: float) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        kept = self._connection is not None
        connection = self._connect()
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_S + wait_s)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read(MOST_ANSWER_BYTES + 1)
            if answer.length and len(content) <= MOST_ANSWER_BYTES:
                raise http.client.IncompleteRead(content, answer.length)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A connection that was kept may have ended meanwhile; a question may be asked again, an order not.
            if kept and method == "GET" and not isinstance(error, TimeoutError):
                return self._ask(method, target, body, wait_s)
            raise ConnectionLost(
                f"{self.url} did not answer: {str(error) or type(error).__name__}"
            ) from error
        if answer.will_close:
            self.close()
        if len(content) > MOST_ANSWER_BYTES:
            self.close()
            raise ConnectionLost(f"{self.url} answers with over {MOST_ANSWER_BYTES >> 20} MiB")
        return self._read(answer.status, content)

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is not None:
            return self._connection
        if self._secure:
            import ssl

            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S)
        try:
            connection.connect()
        except OSError as error:
            raise ConnectFailed(f"no gateway answers at {self.url}: {error}", hint=_HOW) from error
        self._connection = connection
        return connection

    def _read(self, status: int, content: bytes) -> Any:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            text = f"{self.url} answered {status} with something that is not JSON"
            raise ConnectionLost(text, hint=_HOW) from error
        if status < 400:
            return found
        said = found if isinstance(found, dict) else {}
        hint = said.get("hint")
        if status == 401 and self._token is None:
            hint = "give --token-file FILE (or AEGIS_TOKEN_FILE): DATA/operator.token of the gateway's data directory"
        raise AgentError(
            {
                "code": said.get("code", f"http_{status}"),
                "text": _sentence(said, status),
                "hint": hint,
                "status": status,
            }
        )


def _sentence(said: Mapping[str, Any], status: int) -> str:
    parts = [str(said.get("detail") or f"the gateway answered {status}")]
    errors = said.get("errors")
    parts += [
        f"{one.get('at')}: {one.get('detail')}"
        for one in (errors if isinstance(errors, list) else ())
        if isinstance(one, dict) and str(one.get("detail")) not in parts[0]
    ]
    return "; ".join(parts)


def read_token(path: str) -> str:
    """The token in a file. Raises PermissionDenied where it cannot be read, or where everybody can."""
    try:
        with open(path, encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                hint = f"chmod o-r {path}, and have the gateway make another where others had access"
                raise PermissionDenied(f"everybody may read the token in {path}", hint=hint)
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise PermissionDenied(f"cannot read the token in {path}: {reason}") from error
    if not token or not token.isprintable() or " " in token:
        raise PermissionDenied(f"{path} holds no token: one line is expected")
    return token
