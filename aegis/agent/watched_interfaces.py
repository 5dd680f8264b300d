"""The interfaces to watch, and what is told of those that are not there or cannot be attached to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aegis.errors import HostError, KernelError
from aegis.host.reader import Host
from aegis.host.rtnetlink import Link
from aegis.runtime.module import Health
from aegis.runtime.settings import Settings

NO_INTERFACE = "none"


class WatchedInterfaces:
    """`lacking` gives what to do about capabilities that are missing; empty where none is."""

    def __init__(self, settings: Settings, host: Host, health: Health, lacking: Callable[[], str]) -> None:
        self.unreadable = False  # when last read
        self.unattached: tuple[
            tuple[str, str], ...
        ] = ()  # those that are there, by name, and why they are not
        self.absent: tuple[str, ...] = ()  # those that were named and are not there
        self._settings = settings
        self._host = host
        self._health = health
        self._lacking = lacking

    def wanted(self) -> tuple[Link, ...] | None:
        """The interfaces to watch that are there now, by configuration or by default; None where they cannot be read.

        Not to know is not to have none: hooks are let go only for what is known to be unwanted.
        """
        try:
            found = self._read()
        except HostError as error:
            self.unreadable = True
            self._health.raise_("interfaces_unreadable", str(error), error.hint or "")
            return None
        self.unreadable = False
        self._health.clear("interfaces_unreadable")
        return found

    def _read(self) -> tuple[Link, ...]:
        names = self._settings["interfaces"]
        if names is None:
            return self._host.default_interfaces()
        assert isinstance(names, tuple)
        if names == (NO_INTERFACE,):
            return ()
        return tuple(link for link in self._host.links() if link.name in names)

    def tell_about(self, links: tuple[Link, ...] | None, failed: Mapping[str, KernelError]) -> None:
        """What is not watched: interfaces that are not there, and those where attaching failed."""
        names = self._settings["interfaces"]
        absent = ""
        called = {f"interface {one.index}": one.name for one in links or ()}
        self.unattached = tuple(
            sorted((called.get(part, part), str(error)) for part, error in failed.items())
        )
        if links is not None:
            missing = (
                []
                if names is None
                else sorted({*self._settings.texts("interfaces")} - {one.name for one in links})
            )
            self.absent = () if missing == [NO_INTERFACE] else tuple(missing)
            absent = f"there is no {', '.join(missing)}" if missing and missing != [NO_INTERFACE] else ""
            if links or missing == [NO_INTERFACE]:
                self._health.clear("no_interface")
            else:
                self._health.raise_("no_interface", absent or "no interface holds a route")
                absent = ""
        self.tell_failed("interface_unattached", failed, absent)

    def tell_failed(self, code: str, failed: Mapping[str, KernelError], besides: str = "") -> None:
        """One condition for all that failed: a second of the same code would take the first one's place."""
        texts = [besides] if besides else []
        texts += [f"{part}: {failed[part]}" for part in sorted(failed)]
        if texts:
            hints = [self._lacking(), *(error.hint or "" for error in failed.values())] if failed else []
            self._health.raise_(code, "; ".join(texts), next(filter(None, hints), ""))
        elif code == "interface_unattached":
            self._health.clear(code)
