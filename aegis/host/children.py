"""Child processes in a chosen network namespace and cgroup: one function, or one program.

For the demo and for tests; the agent itself starts no process. A child ends with its `Child`, at the latest with the
thread that made it.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self

from aegis._native._system import ffi, lib
from aegis.errors import HostError
from aegis.host.namespaces import NetworkNamespace

_FAILED = 125  # exit status of a child that did not get as far as its task, as env(1) uses it


class Child:
    """A started child. A context manager that kills what still runs at its end."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid = pid
        self._answer = answer
        self._handle = os.pidfd_open(pid)
        self._status: int | None = None

    def fileno(self) -> int:
        """A pidfd: readable once the child has ended."""
        return self._handle

    def running(self) -> bool:
        """The child has not ended yet."""
        return self._status is None and not select.select([self._handle], [], [], 0)[0]

    def wait(self, seconds: float | None = None) -> int:
        """Exit status, or minus the signal that ended it. HostError when it still runs after `seconds`."""
        if self._status is None:
            if not select.select([self._handle], [], [], seconds)[0]:
                raise HostError(f"child {self.pid} still runs after {seconds} s")
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def result(self, seconds: float | None = None) -> Any:
        """What the function returned; its exception is raised here. HostError where there is no answer."""
        ready, _, _ = select.select([self._answer], [], [], seconds)
        if not ready:
            raise HostError(f"child {self.pid} gave no answer in {seconds} s")
        data = b""
        while block := os.read(self._answer, 1 << 16):
            data += block
        status = self.wait()
        if not data:
            raise HostError(f"child {self.pid} ended with {status} and gave no answer")
        good, value = pickle.loads(data)  # noqa: S301 - written by our own child over our own pipe
        if good:
            return value
        raise value

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens where the child has ended."""
        if self._status is None:
            try:
                signal.pidfd_send_signal(self._handle, number)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """Kill it where it runs, take its status, close the descriptors. Twice is harmless."""
        if self._handle < 0:
            return
        self.signal(signal.SIGKILL)
        self.wait()
        os.close(self._handle)
        os.close(self._answer)
        self._handle = self._answer = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call(
    function: Callable[..., Any],
    *arguments: Any,
    namespace: NetworkNamespace | None = None,
    cgroup: str | os.PathLike[str] | None = None,
) -> Child:
    """Run `function(*arguments)` in a fork; `result()` hands its value or exception over (pickled)."""

    def task(answer: int, placing: int) -> None:
        os.close(placing)
        try:
            outcome = (True, function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            outcome = (False, error)
        try:
            data = pickle.dumps(outcome)
            pickle.loads(data)  # noqa: S301 - our own; some exceptions can be written but not read
        except Exception as error:  # noqa: BLE001 - pickle raises whatever __reduce__ raises
            _, value = outcome
            what = (
                f"{type(value).__name__}: {value}"
                if isinstance(value, BaseException)
                else "answer of a child"
            )
            data = pickle.dumps((False, HostError(f"{what} (cannot be sent: {error})")))
        with os.fdopen(answer, "wb") as stream:
            stream.write(data)

    return _fork(task, namespace, cgroup)


def execute(
    arguments: Sequence[str],
    *,
    namespace: NetworkNamespace | None = None,
    cgroup: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Child:
    """Start a program found on PATH; descriptors that are not given are the caller's own."""

    def task(_answer: int, _placing: int) -> None:
        for target, source in enumerate((stdin, stdout, stderr)):
            if source is not None:
                os.dup2(source, target)
        os.execvpe(arguments[0], list(arguments), environment or os.environ)  # noqa: S606 - argv by argv, no shell

    return _fork(task, namespace, cgroup)


def _fork(
    task: Callable[[int, int], None],
    namespace: NetworkNamespace | None,
    cgroup: str | os.PathLike[str] | None,
) -> Child:
    """Returns once the child is in its namespace and cgroup (and runs its program); HostError when it could not."""
    reading, writing = os.pipe()
    placed, placing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(placed)
        _become(task, writing, placing, namespace, cgroup)
    os.close(writing)
    os.close(placing)
    with os.fdopen(placed, "rb") as stream:
        failure = stream.read().decode()
    child = Child(pid, reading)
    if failure:
        child.close()
        raise HostError(f"start a child: {failure}")
    return child


def _become(
    task: Callable[[int, int], None],
    answer: int,
    placing: int,
    namespace: NetworkNamespace | None,
    cgroup: str | os.PathLike[str] | None,
) -> NoReturn:
    """The child's whole life: no handler, no finaliser and no buffer of the parent runs in it.

    The end of `placing` is what the parent waits for; it closes by itself where the task is a program.
    """
    status = _FAILED
    try:
        lib.prctl(lib.PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal.SIGKILL))
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if cgroup is not None:
            with open(os.path.join(cgroup, "cgroup.procs"), "w") as stream:
                stream.write("0")
        if namespace is not None:
            namespace.enter()
        task(answer, placing)
        status = 0
    except BaseException as error:  # noqa: BLE001 - there is nobody above to take it
        sentence = f"{type(error).__name__}: {error}".encode()
        try:
            os.write(placing, sentence)
        except OSError:  # placed long ago
            os.write(2, sentence + b"\n")
    finally:
        os._exit(status)
