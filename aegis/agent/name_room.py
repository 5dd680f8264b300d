"""Names while the agent runs: whose answers are believed, what was looked up, what open flows still use, what is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from aegis.errors import AegisError, KernelError
from aegis.kernel import tc
from aegis.kernel.datapath import Datapath
from aegis.kernel.features import LOOPBACK, Feature
from aegis.kernel.links import Link
from aegis.kernel.names import GRACE_S, Names
from aegis.kernel.names_limits import describe_names
from aegis.kernel.names_plan import NamePlan
from aegis.kernel.names_resolvers import Resolvers, find_resolvers
from aegis.kernel.names_side import NamesSide, learn
from aegis.kernel.tc import Direction
from aegis.runtime.module import Health, Log

LOOK_S: Final = 20.0  # a third of the grace that `keep_open` gives
ON_LOOPBACK: Final = "tc_names"


class NameRoom:
    """Made without I/O; `open` acquires, `close` releases, `keep` runs beside."""

    def __init__(
        self,
        health: Health,
        log: Log,
        boottime_ns: Callable[[], int],
        *,
        named: Collection[str] = (),
        find: Callable[[tuple[str, ...]], Resolvers] = find_resolvers,
    ) -> None:
        """`named`: resolvers of the option; `find` gives all resolvers."""
        self._health, self._log, self._boottime_ns = health, log, boottime_ns
        self._named, self._find = tuple(named), find
        self._datapath: Datapath | None = None
        self._names: Names | None = None
        self._hooks: list[Link] = []  # on the loopback; they leave with the agent
        self._resolvers = Resolvers(addresses=())
        self._plan: NamePlan | None = None  # the last one that was put
        self._unresolved: dict[str, str] = {}
        self._put = asyncio.Event()

    def open(self, datapath: Datapath) -> NamesSide:
        """Take the tables of the datapath. Raises KernelError."""
        self._names, self._datapath = Names.of(datapath.object), datapath
        self.refresh()
        return NamesSide(self._names, committed=self._committed)

    def close(self) -> None:
        """Leave; the kernel goes on learning."""
        self._let_go()
        if self._names is not None:
            self._names.close()
        self._names = self._datapath = None

    def refresh(self) -> None:
        """Believe the resolvers that the host has now, and watch the loopback for one on this host. Raises KernelError."""
        if self._names is None:
            return
        self._resolvers = self._find(self._named)
        self._names.set_resolvers(self._resolvers.addresses)
        asked = self._names.asked()
        if not asked or not self._resolvers.stub:
            self._let_go()
        elif not self._loopback():
            self._watch_loopback()
        if asked and not self._resolvers.addresses:
            self._health.raise_("names_unavailable", "no resolver is known: no name has an address")
        else:
            self._health.clear("names_unavailable")

    def _loopback(self) -> bool:
        """Whether what crosses the loopback is read: by the packet programs, or by the one for names."""
        watched = self._datapath is not None and LOOPBACK in self._datapath.interfaces()
        return watched or bool(self._hooks)

    def _watch_loopback(self) -> None:
        assert self._datapath is not None
        try:
            program = self._datapath.object.program(ON_LOOPBACK)
            for direction in Direction:
                self._hooks.append(tc.attach_tcx(program, LOOPBACK, direction))
        except KernelError as error:
            self._let_go()
            self._log.warning("loopback not watched for names", error=str(error))

    def _let_go(self) -> None:
        while self._hooks:
            self._hooks.pop().close()

    def _committed(self, plan: NamePlan) -> None:
        self._plan = plan
        self._unresolved = {}
        self._put.set()

    async def keep(self) -> None:
        """Look names up when a policy has put them, and look after the table; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._put.wait()
            except TimeoutError:
                await self.look()
                continue
            self._put.clear()
            await self.look()
            await self.look_up()

    async def look_up(self) -> None:
        """Bind the names that the policy writes out to what the resolvers say of them now."""
        plan, names = self._plan, self._names
        if plan is None or names is None or not plan.exact:
            return
        from aegis.kernel.names_resolve import look_up  # half a megabyte that most hosts never need

        found = await asyncio.to_thread(
            look_up, plan.exact, self._resolvers.addresses, lambda: self._boottime_ns() / 1e9
        )
        if self._names is not names or self._plan is not plan:
            return  # another policy has taken its place, and is looked up next
        try:
            self._unresolved = learn(names, plan, found, self._now_s())
        except KernelError as error:
            self._log.warning("names not bound", error=str(error))
        if self._unresolved:
            self._log.info("names without an address", names=len(self._unresolved), of=len(plan.exact))

    async def look(self) -> None:
        """Take on other resolvers, keep what open flows use, take out what is over."""
        names, now = self._names, self._now_s()
        if names is None:
            return
        try:
            self.refresh()
            if not names.asked():
                return
            names.keep_open(now + GRACE_S, now)
            done = await asyncio.to_thread(names.harvest, now)
        except (AegisError, OSError) as error:
            self._log.warning("names not looked after", error=str(error))
            return
        if done.removed:
            self._log.debug("names taken out", removed=done.removed, known=done.addresses - done.removed)

    def _now_s(self) -> int:
        return self._boottime_ns() // 1_000_000_000

    def features(self) -> tuple[Feature, ...]:
        """Lines for `doctor`; none while no policy names names."""
        try:
            if self._names is None or not self._names.asked():
                return ()
            counts = self._names.counts()
        except KernelError as error:
            self._log.warning("names not counted", error=str(error))
            return ()
        return describe_names(self._resolvers, counts, loopback=self._loopback(), unresolved=self._unresolved)
