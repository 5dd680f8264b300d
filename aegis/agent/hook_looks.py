"""Looks after the hooks while the agent runs: interfaces that come and go, programs that somebody took off."""

from __future__ import annotations

import errno
from collections.abc import Callable

from aegis.agent.watched_interfaces import WatchedInterfaces
from aegis.errors import KernelError
from aegis.kernel.datapath import Datapath
from aegis.runtime.module import Health, Log

# So many times in a row every hook is found in its place before a lost one is forgotten (the agent looks every minute).
LOOKS_REMEMBERED = 10


class HookLooks:
    """`datapath` gives the one that is installed, or None. Nothing here raises KernelError."""

    def __init__(
        self,
        datapath: Callable[[], Datapath | None],
        interfaces: WatchedInterfaces,
        health: Health,
        log: Log,
    ) -> None:
        self._datapath = datapath
        self._interfaces = interfaces
        self._health = health
        self._log = log
        self._quiet_looks = 0  # since a hook was lost

    def look(self) -> None:
        """The regular look, once a minute: as `refresh`, and what was lost long ago is forgotten."""
        self._quiet_looks += 1
        self.refresh()
        self._look_before()
        if self._quiet_looks >= LOOKS_REMEMBERED:
            self._health.clear("hook_lost")

    def look_quickly(self) -> None:
        """Every second: whether every hook is where it was put; all else only when something is amiss."""
        datapath = self._datapath()
        if datapath is None:
            return
        try:
            amiss = self._interfaces.unreadable or not datapath.in_place()
        except KernelError as error:
            self._log.warning("hooks cannot be looked at", error=str(error))
            amiss = True
        if amiss:
            self.refresh()

    def refresh(self) -> None:
        """Take on interfaces that came, let go of those that went, and put back what somebody took off."""
        datapath = self._datapath()
        if datapath is None:
            return
        links = self._interfaces.wanted()
        failed: dict[str, KernelError] = {}
        wanted = None if links is None else {link.index for link in links}
        if wanted is not None:
            for index in datapath.touched() - wanted:
                try:
                    datapath.remove_interface(index)
                except KernelError as error:
                    self._log.warning("interface not released", interface=index, error=str(error))
        self._mend(datapath)
        for index in sorted((datapath.touched() if wanted is None else wanted) - datapath.interfaces()):
            try:
                datapath.add_interface(index)
            except KernelError as error:
                failed[f"interface {index}"] = error
        self._interfaces.tell_about(links, failed)

    def _look_before(self) -> None:
        """Whether somebody's program comes before ours: packets it accepts or drops are not judged."""
        datapath, told = self._datapath(), []
        if datapath is None:
            return
        for index in sorted(datapath.touched()):
            try:
                found = datapath.before(index)
            except KernelError as error:
                self._log.warning("programs before ours cannot be listed", interface=index, error=str(error))
                continue
            told += [
                f"{one.direction.name.lower()} of interface {index}: {one.name or 'program'}"
                + (f" (id {one.program_id})" if one.program_id else "")
                for one in found
            ]
        if told:
            self._health.raise_("hook_preceded", "; ".join(told))
        else:
            self._health.clear("hook_preceded")

    def _mend(self, datapath: Datapath) -> None:
        try:
            mended = datapath.mend()
        except KernelError as error:
            self._health.raise_("hook_lost", f"the hooks cannot be looked at: {error}", error.hint or "")
            self._quiet_looks = 0
            return
        told, unseen = [], []
        for each in mended:
            if each.error is None:
                told.append(f"{each.part}: was taken off, and is attached again")
            elif not each.seen:
                unseen.append(f"{each.part}: cannot be looked at: {each.error}")
            elif each.error.errno != errno.ENODEV:  # a device that went takes its hooks along
                told.append(f"{each.part}: was taken off, and cannot be attached again: {each.error}")
        if told:
            self._log.warning("hooks lost", what="; ".join(told))
        if told or unseen:
            self._quiet_looks = 0
            self._health.raise_("hook_lost", "; ".join(told + unseen))
