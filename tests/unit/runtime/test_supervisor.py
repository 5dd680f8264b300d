"""Modules are real folders on a package path of their own."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis.errors import ModuleUnknown
from aegis.model.module import ModuleState, ModuleStatus
from aegis.runtime import supervisor as supervising
from aegis.runtime.clock import SystemClock
from aegis.runtime.config import load, option_table
from aegis.runtime.health import Conditions
from aegis.runtime.supervisor import Supervisor

GOOD = """
    import asyncio

    class Module:
        name = {name!r}
        requires = ()

        def __init__(self, context):
            self.context = context
            {construct}

        async def run(self, ready):
            {before}
            ready()
            {after}
            try:
                await asyncio.Event().wait()
            finally:
                self.context.log.append({name!r} + " released")
"""


class Package:
    """A package of modules in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.name = f"found_{root.name.replace('-', '_')}"
        self.root = root / self.name
        self.root.mkdir()
        (self.root / "__init__.py").touch()

    def add(self, name: str, module: str | None = None, config: str = "OPTIONS = ()", **parts: str) -> None:
        folder = self.root / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "config.py").write_text(f"from aegis.runtime.settings import Option\n{config}\n")
        body = module or GOOD.format(name=name, **{"construct": "", "before": "", "after": "", **parts})
        (folder / "module.py").write_text(textwrap.dedent(body))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = Package(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
        del sys.modules[name]


class Running:
    """A supervisor over a package, with what its modules did."""

    def __init__(self, supervisor: Supervisor, log: list[str], states: list[tuple[str, str]]) -> None:
        self.supervisor = supervisor
        self.log = log
        self.states = states
        self.environ: dict[str, str] = {}
        self.conditions: Conditions
        self.changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a change of state after which `holds()` is true."""
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def logged(self, lines: int) -> None:
        """Wait until modules have logged that many lines."""
        async with asyncio.timeout(20):
            while len(self.log) < lines:  # noqa: ASYNC110  a list tells nobody
                await asyncio.sleep(0)

    def seen(self, name: str) -> list[str]:
        return [state for module, state in self.states if module == name]


@asynccontextmanager
async def supervised(
    package: Package,
    *,
    missing: Callable[[tuple[str, ...]], str | None] = lambda _: None,
    clock: SystemClock | None = None,
    held: Callable[[str], str | None] = lambda _: None,
    released: Callable[[str], None] = lambda _: None,
    **environ: str,
) -> AsyncIterator[Running]:
    log: list[str] = []
    states: list[tuple[str, str]] = []
    clock = clock or SystemClock()
    conditions = Conditions(clock)

    def settings(name: str) -> Any:
        table = option_table(package.name)
        if f"modules.{name}" in table.opaque:
            return None
        return load(environ=running.environ, table=table).table(f"modules.{name}")

    def changed(status: ModuleStatus) -> None:
        states.append((status.name, status.state.value))
        running.changed.set()

    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(
            group=group,
            clock=clock,
            conditions=conditions,
            context=lambda name, config: SimpleNamespace(
                name=name, config=config, log=log, health=conditions.scoped(name), clock=clock
            ),
            settings=settings,
            missing=missing,
            changed=changed,
            held=held,
            released=released,
            package=package.name,
        )
        running = Running(supervisor, log, states)
        running.environ = environ
        running.conditions = conditions
        yield running
        await supervisor.stop_all(lambda: 3.0)


async def test_adding_a_folder_adds_a_module(package: Package) -> None:
    package.add("one")
    package.add("_hidden")
    (package.root / "two.py").touch()
    async with supervised(package) as running:
        assert running.supervisor.names() == ("one",)
        await running.supervisor.start_enabled()
        assert running.supervisor.status("one").state is ModuleState.RUNNING
    assert running.log == ["one released"]
    assert running.seen("one") == ["starting", "running", "stopping", "stopped"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"module": "import nothing_of_that_name"}, "ModuleNotFoundError"),
        ({"module": "syntax error"}, "SyntaxError"),
        ({"module": "x = 1"}, "has 0 classes"),
        ({"module": "raise SystemExit(3)"}, "SystemExit: 3"),
        ({"config": "1 / 0"}, "ZeroDivisionError"),
        ({"config": "OPTIONS = (1,)"}, "no tuple of Option"),
        ({"construct": "raise ValueError('at construct')"}, "ValueError: at construct"),
        ({"before": "raise ValueError('in run')"}, "ValueError: in run; starts again"),
        ({"before": "raise SystemExit(4)"}, "SystemExit: 4; starts again"),
        ({"before": "raise asyncio.CancelledError"}, "cancelled itself; starts again"),
        ({"before": "return"}, "ended by itself; starts again"),
    ],
)
async def test_a_broken_module_is_failed_and_the_others_start(
    package: Package, broken: dict[str, str], reason: str
) -> None:
    package.add("bad", **broken)
    package.add("good")
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        bad, good = running.supervisor.statuses()
        assert (bad.state, good.state) == (ModuleState.FAILED, ModuleState.RUNNING)
        assert reason in bad.reason


async def test_orders_are_answered_after_the_state_changed_and_twice_is_harmless(package: Package) -> None:
    package.add("one", before="await asyncio.sleep(0.02)")
    async with supervised(package) as running:
        supervisor = running.supervisor
        both = await asyncio.gather(supervisor.start("one"), supervisor.start("one"))
        assert [status.state for status in both] == [ModuleState.RUNNING] * 2
        assert (await supervisor.stop("one")).state is ModuleState.STOPPED
        assert running.log == ["one released"]
        assert (await supervisor.stop("one")).state is ModuleState.STOPPED
        assert (await supervisor.disable("one")).state is ModuleState.DISABLED
        assert (await supervisor.enable("one")).state is ModuleState.RUNNING
        with pytest.raises(ModuleUnknown, match="two"):
            await supervisor.start("two")
    assert running.log == ["one released"] * 2


async def test_a_module_disabled_by_configuration_does_not_start(package: Package) -> None:
    package.add("one")
    async with supervised(package, AEGIS_MODULES__ONE__ENABLED="false") as running:
        await running.supervisor.start_enabled()
        status = running.supervisor.status("one")
        assert (status.state, status.reason) == (ModuleState.DISABLED, "by configuration")


async def test_five_failures_in_ten_minutes_are_the_last(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "FIRST_PAUSE_S", 0.001)
    package.add("bad", after="raise ValueError('again')")
    async with supervised(package) as running:
        await running.supervisor.start("bad")
        await running.until(lambda: "5 failures" in running.supervisor.status("bad").reason)
        status = running.supervisor.status("bad")
        assert (status.state, status.restarts) == (ModuleState.FAILED, 4)
        assert running.seen("bad") == ["starting", "running", "failed"] * 5
        assert (await running.supervisor.start("bad")).restarts == 0


class Clockwork(SystemClock):
    """A clock that stands still, but for the pauses between two runs and what a run takes by the test's word."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.run_ns = 0
        self.pauses: list[float] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_ns += round(seconds * 1e9)
        await asyncio.sleep(0)


FAILS = "self.context.clock.now_ns += self.context.clock.run_ns; raise ValueError('again')"


async def test_pauses_grow_to_the_longest_however_often_it_fails(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1,024 doublings 0.5 s is no float any more."""
    clock = Clockwork()
    clock.run_ns = 599_000_000_000  # too short to be healthy, too long for five failures in ten minutes
    package.add("bad", after=FAILS)
    package.add("good")
    async with supervised(package, clock=clock) as running:
        await running.supervisor.start_enabled()
        await running.until(lambda: len(clock.pauses) > 1_100)
        assert clock.pauses[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert set(clock.pauses[8:]) == {30.0}
        assert running.supervisor.status("bad").restarts >= 1_100
        assert running.supervisor.status("good").state is ModuleState.RUNNING


async def test_after_a_healthy_run_restarts_count_from_0(package: Package) -> None:
    clock = Clockwork()
    clock.run_ns = 599_000_000_000
    package.add("bad", after=FAILS)
    async with supervised(package, clock=clock) as running:
        await running.supervisor.start("bad")
        await running.until(lambda: len(clock.pauses) > 4)
        clock.run_ns = 600_000_000_000
        so_far = len(clock.pauses)
        await running.until(lambda: len(clock.pauses) > so_far + 3)
        assert set(clock.pauses[so_far + 1 :]) == {0.5}
        assert running.supervisor.status("bad").restarts <= 1


@pytest.mark.parametrize("broken", ["changed", "settings", "conditions"])
async def test_what_breaks_in_the_supervisor_itself_ends_one_module(
    package: Package, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    package.add("bad", after="raise ValueError('in run')" if broken == "changed" else "")
    package.add("good")

    def breaks(*arguments: Any) -> Any:
        status = arguments[0]
        name = getattr(status, "name", status)
        if name == "bad" and (broken != "changed" or status.state is ModuleState.FAILED):
            raise ZeroDivisionError("inside")
        return before(*arguments)

    async with supervised(package) as running:
        owner: Any = running.conditions if broken == "conditions" else running.supervisor
        member = {"changed": "_changed", "settings": "_settings", "conditions": "clear_all"}[broken]
        before = getattr(owner, member)
        monkeypatch.setattr(owner, member, breaks)
        await running.supervisor.start_enabled()
        if broken == "conditions":
            await running.supervisor.stop("bad")
        else:
            status = running.supervisor.status("bad")
            assert (status.state, "ZeroDivisionError: inside" in status.reason) == (ModuleState.FAILED, True)
        assert running.supervisor.status("good").state is ModuleState.RUNNING
        monkeypatch.undo()


async def test_one_that_cancels_its_own_task_is_failed(package: Package) -> None:
    package.add("bad", after="asyncio.current_task().cancel()")
    package.add("good")
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        await running.until(lambda: running.supervisor.status("bad").state is ModuleState.FAILED)
        assert running.supervisor.status("bad").reason == "its task was cancelled"
        assert running.supervisor.status("good").state is ModuleState.RUNNING
        assert (await running.supervisor.stop("bad")).state is ModuleState.STOPPED


async def test_an_error_that_cannot_be_printed_is_named_by_its_class(package: Package) -> None:
    package.add(
        "bad",
        before="""
            class Mute(Exception):
                def __str__(self):
                    raise ValueError
            raise Mute
""".strip(),
    )
    package.add("good")
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        bad, good = running.supervisor.statuses()
        assert bad.reason.startswith("Mute: and cannot say why; starts again")
        assert good.state is ModuleState.RUNNING


async def test_options_that_change_while_it_starts_are_taken(package: Package) -> None:
    config = 'OPTIONS = (Option(name="n", kind="int", default=1, help="h."),)'
    package.add(
        "one",
        config=config,
        construct='self.n = context.config.integer("n")',
        before="self.context.log.append(self.n); await asyncio.sleep(0.05)",
    )
    async with supervised(package) as running:
        starting = asyncio.ensure_future(running.supervisor.start("one"))
        await running.until(lambda: running.supervisor.status("one").state is ModuleState.STARTING)
        await running.logged(1)
        running.environ["AEGIS_MODULES__ONE__N"] = "7"
        status = await running.supervisor.configure("one", frozenset({"n"}), frozenset())
        assert status.state is ModuleState.RUNNING
        assert running.log == [1, "one released", 7]
        await starting


async def test_options_that_change_while_it_starts_again_by_itself_are_taken(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "FIRST_PAUSE_S", 0.001)
    config = 'OPTIONS = (Option(name="n", kind="int", default=1, help="h.", reload="live"),)'
    package.add(
        "one",
        config=config,
        construct='self.n = context.config.integer("n"); context.log.append(self.n)',
        before="if len(self.context.log) == 1: raise ValueError\n            "
        "if len(self.context.log) == 2: await asyncio.sleep(3600)",
    )
    async with supervised(package) as running:
        await running.supervisor.start("one")
        await running.until(lambda: running.supervisor.status("one").state is ModuleState.STARTING)
        await running.logged(2)
        running.environ["AEGIS_MODULES__ONE__N"] = "7"
        status = await running.supervisor.configure("one", frozenset({"n"}), frozenset({"n"}))
        assert status.state is ModuleState.RUNNING
        assert running.log == [1, 1, 7]


async def test_a_start_during_the_pause_does_not_wait_for_it(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "FIRST_PAUSE_S", 3600.0)
    package.add("bad", before="if len(self.context.log) < 1: self.context.log.append('x'); raise ValueError")
    async with supervised(package) as running:
        assert (await running.supervisor.start("bad")).state is ModuleState.FAILED
        assert (await running.supervisor.start("bad")).state is ModuleState.RUNNING


async def test_a_missing_feature_is_the_reason_and_not_tried_again(package: Package) -> None:
    package.add(
        "one", module=GOOD.format(name="one", construct="", before="", after="").replace("()", "('bpf',)", 1)
    )
    sentence = "missing_capability(CAP_BPF): no"
    async with supervised(
        package, missing=lambda features: sentence if "bpf" in features else None
    ) as running:
        status = await running.supervisor.start("one")
        assert (status.state, status.reason) == (ModuleState.FAILED, sentence)


async def test_a_condition_degrades_while_it_holds_and_ends_with_the_module(package: Package) -> None:
    package.add("one", before="self.context.health.raise_('slow', 'very')")
    async with supervised(package) as running:
        await running.supervisor.start("one")
        status = running.supervisor.status("one")
        assert (status.state, status.reason) == (ModuleState.DEGRADED, "slow: very")
        running.conditions.clear("one", "slow")
        assert running.supervisor.status("one").state is ModuleState.RUNNING
        running.conditions.raise_("one", "slow", "again")
        await running.supervisor.stop("one")
        assert running.conditions.all() == ()


async def test_one_that_does_not_stop_is_named(package: Package) -> None:
    stuck = """
        import asyncio
        class Module:
            name = "stuck"
            requires = ()
            def __init__(self, context):
                self.context = context
            async def run(self, ready):
                ready()
                while not self.context.log:
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        pass
    """
    package.add("stuck", module=stuck)
    async with supervised(package) as running:
        await running.supervisor.start("stuck")
        status = await running.supervisor.stop("stuck", within_s=0.02)
        assert (status.state, status.reason) == (ModuleState.FAILED, "did not stop within 0.02 s")
        assert (await running.supervisor.start("stuck")).state is ModuleState.FAILED
        running.log.append("let go")


async def test_what_it_raises_when_told_to_stop_is_in_the_reason(package: Package) -> None:
    module = GOOD.replace('self.context.log.append({name!r} + " released")', "raise ValueError('at the end')")
    package.add("one", module=module.format(name="one", construct="", before="", after=""))
    async with supervised(package) as running:
        await running.supervisor.start("one")
        status = await running.supervisor.stop("one")
        assert (status.state, status.reason) == (ModuleState.STOPPED, "by order; ValueError: at the end")


async def test_one_that_is_never_ready_is_ended(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "READY_DEADLINE_S", 0.02)
    package.add("slow", before="await asyncio.sleep(3600)")
    async with supervised(package) as running:
        status = await running.supervisor.start("slow")
        assert (status.state, status.reason) == (ModuleState.FAILED, "not ready within 0.02 s")


async def test_changed_options_are_reloaded_live_or_by_a_restart(package: Package) -> None:
    config = 'OPTIONS = (Option(name="n", kind="int", default=1, help="h.", reload="live"),)'
    package.add("plain", config=config)
    live = (
        GOOD.format(name="live", construct="", before="", after="")
        + """
        def reload(self, config):
            self.context.log.append(config.integer("n"))
"""
    )
    package.add("live", config=config, module=live)
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        running.environ |= {"AEGIS_MODULES__LIVE__N": "7", "AEGIS_MODULES__PLAIN__N": "7"}
        changed = frozenset({"n"})
        for name in ("live", "plain"):
            status = await running.supervisor.configure(name, changed, changed)
            assert status.state is ModuleState.RUNNING
        assert running.log == [7, "plain released"]
        await running.supervisor.configure("live", changed, frozenset())
        assert running.log == [7, "plain released", "live released"]


async def test_a_reload_that_fails_is_made_good_by_a_restart(package: Package) -> None:
    live = (
        GOOD.format(name="one", construct="", before="", after="")
        + """
        def reload(self, config):
            raise ValueError("cannot")
"""
    )
    package.add(
        "one",
        config='OPTIONS = (Option(name="n", kind="int", default=1, help="h.", reload="live"),)',
        module=live,
    )
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        status = await running.supervisor.configure("one", frozenset({"n"}), frozenset({"n"}))
        assert status.state is ModuleState.RUNNING
        assert running.log == ["one released"]
        assert running.seen("one") == ["starting", "running", "stopping", "stopped", "starting", "running"]


async def test_one_that_is_held_off_is_left_out_until_it_is_resumed_or_ordered(package: Package) -> None:
    package.add("held")
    package.add("free")
    released: list[str] = []
    async with supervised(package, held={"held": "it spun"}.get, released=released.append) as running:
        supervisor = running.supervisor
        await supervisor.start_enabled()
        assert supervisor.status("free").state is ModuleState.RUNNING
        assert (supervisor.status("held").state, supervisor.status("held").reason) == (
            ModuleState.FAILED,
            "it spun",
        )
        assert (await supervisor.resume("held")).state is ModuleState.RUNNING
        assert released == []
        await supervisor.stop("held")
        assert (await supervisor.resume("held")).state is ModuleState.STOPPED  # another order came between
        assert (await supervisor.start("held")).state is ModuleState.RUNNING
        assert released == ["held"]
        await supervisor.stop_all(lambda: 3.0)


async def test_what_is_to_stop_last_is_kept_for_then(package: Package) -> None:
    package.add("early")
    package.add("late")
    async with supervised(package) as running:
        await running.supervisor.start_enabled()
        await running.supervisor.stop_all(lambda: 3.0, keep=frozenset({"late"}))
        assert [one.state for one in running.supervisor.statuses()] == [
            ModuleState.STOPPED,
            ModuleState.RUNNING,
        ]
        await running.supervisor.stop_all(lambda: 3.0)
        assert running.log == ["early released", "late released"]
