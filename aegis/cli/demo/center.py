"""The demo's other host: a gateway on SQLite in a namespace of its own, and what an operator asks of it."""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aegis.errors import HostError
from aegis.host import children
from aegis.host.namespaces import NetworkNamespace

LINK_PORT = 8080
API_PORT = 8083
START_SECONDS = 30.0
WAIT = "5s"


class Center:
    """The gateway process and its Actions API, which listens on the namespace's loopback only."""

    def __init__(self, directory: Path, namespace: NetworkNamespace, address: str) -> None:
        self.directory = directory / "gateway"
        self.log = directory / "gateway.log"
        self.url = f"ws://{address}:{LINK_PORT}/ws/agent"
        self._address = address
        self._namespace = namespace
        self._process: children.Child | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> float:
        """Start it; seconds until it is ready. Raises HostError with the end of its log."""
        command = [
            *(sys.executable, "-m", "aegis.cli.main", "gateway", "run", "--allow-v1"),
            *("--listen", f"{self._address}:{LINK_PORT}"),
            *("--actions-listen", f"127.0.0.1:{API_PORT}"),
            *("--data-dir", str(self.directory)),
        ]
        started = time.monotonic()
        with self.log.open("wb") as log:
            self._process = children.execute(
                command, namespace=self._namespace, stdout=log.fileno(), stderr=log.fileno()
            )
        while True:
            try:
                if self._call("GET", "/readyz", None, {})[0] == http.HTTPStatus.OK:
                    return time.monotonic() - started
            except OSError:
                pass
            if not self._process.running() or time.monotonic() - started > START_SECONDS:
                raise HostError(f"the gateway did not come up; its log ends: {self.log.read_text()[-600:]}")
            time.sleep(0.05)

    def stop(self) -> int | None:
        """SIGTERM and wait; the exit code. Twice is harmless."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        with process:
            process.signal(15)
            return process.wait(10)

    def ask(self, path: str) -> Any:
        """What the Actions API answers to a GET, decoded. Raises HostError when it refuses."""
        return self._answer("GET", path, None)

    def count_until(
        self, path: str, choose: Callable[[Any], bool], enough: int, seconds: float = 10.0
    ) -> int:
        """Ask until `enough` items of a list are chosen, or the time is over; how many were.

        A busy host has events of others on the first pages.
        """
        deadline = time.monotonic() + seconds
        while True:
            page = self.ask(path)
            count = sum(map(choose, page["items"]))
            while page["next"] and count < enough and time.monotonic() < deadline:
                page = self.ask(f"{path}&cursor={urllib.parse.quote(page['next'])}")
                count += sum(map(choose, page["items"]))
            if count >= enough or time.monotonic() > deadline:
                return count
            time.sleep(0.05)

    def order(self, uid: str, channel: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send an order and wait for its answer: `status`, and `answer` where there is one."""
        body = {"channel": channel, "message": message}
        found: dict[str, Any] = self._answer("POST", f"/agents/{uid}/send?wait={WAIT}", body)
        return found

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the Actions API, to be kept and closed by the caller."""
        connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=10)
        with self._namespace.entered():
            connection.connect()
        return connection

    def headers(self) -> dict[str, str]:
        """What shows an operator."""
        return {"Authorization": f"Bearer {(self.directory / 'operator.token').read_text().strip()}"}

    def _answer(self, method: str, path: str, body: object) -> Any:
        status, text = self._call(method, path, body, self.headers())
        if status != http.HTTPStatus.OK:
            raise HostError(f"the gateway answered {status} to {method} {path}: {text[:200]!r}")
        return json.loads(text)

    def _call(self, method: str, path: str, body: object, shown: dict[str, str]) -> tuple[int, bytes]:
        headers = shown if body is None else shown | {"Content-Type": "application/json"}
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
