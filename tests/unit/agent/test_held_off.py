"""Which modules are held off, over restarts, failing disks and clocks that are set back."""

from __future__ import annotations

import os
from pathlib import Path

from aegis.agent.held_off import FILE, FIRST_S, LONGEST_S, VARIABLE, HeldOff, Interrupted
from aegis.runtime.spin import Spin

S = 1_000_000_000


def spin(module: str = "slow") -> Spin:
    return Spin(module=module, where="modules/slow/module.py:7 run", seconds=2.1)


def test_the_pause_doubles_up_to_an_hour_over_restarts(tmp_path: Path) -> None:
    pauses = []
    for times in range(1, 10):
        held = HeldOff(str(tmp_path), {}).add(spin(), times * S)
        assert held.times == times
        pauses.append(held.hold_s)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert (pauses[0], pauses[-1]) == (FIRST_S, LONGEST_S)
    assert os.stat(tmp_path / FILE).st_mode & 0o777 == 0o600


def test_an_order_to_start_forgets_it_all(tmp_path: Path) -> None:
    held_off = HeldOff(str(tmp_path), {})
    held_off.add(spin(), S)
    held_off.add(spin("other"), S)
    held_off.forget("slow")
    held_off.forget("never heard of")
    assert set(HeldOff(str(tmp_path), {}).all()) == {"other"}
    assert HeldOff(str(tmp_path), {}).add(spin(), S).hold_s == FIRST_S


def test_what_is_left_of_a_pause(tmp_path: Path) -> None:
    held = HeldOff(str(tmp_path), {}).add(spin(), 1000 * S)
    assert [held.left_s((1000 + after) * S) for after in (0, 59, 60, 61, 10**6)] == [60, 1, 0, 0, 0]
    assert held.left_s(0) == 60  # the wall clock was set back: not a thousand seconds more


def test_a_disk_that_refuses_does_not_make_the_agent_start_again_and_again(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    state = tmp_path / "gone"
    held_off = HeldOff(str(state), environ)
    held_off.add(spin(), S)
    assert "No such file" in held_off.problem
    after = HeldOff(str(state), environ)
    assert after.of("slow") == held_off.of("slow")
    assert after.just == {"slow"}
    assert VARIABLE not in environ  # only that one start is told


def test_a_file_that_cannot_be_read_holds_nobody_off(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{")
    (tmp_path / FILE).chmod(0o600)
    assert HeldOff(str(tmp_path), {VARIABLE: "[1"}).all() == {}
    (tmp_path / FILE).chmod(0o666)
    refused = HeldOff(str(tmp_path), {})
    assert refused.all() == {}
    assert "mode 0666" in refused.problem


def test_orders_that_were_under_way_are_the_next_starts_alone(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    orders = (Interrupted(command_id="1", module="slow"), Interrupted(command_id="\0\U0001f600", policy=True))
    HeldOff(str(tmp_path), environ).add(spin(), S, orders)
    assert HeldOff(str(tmp_path), environ).interrupted == orders
    assert HeldOff(str(tmp_path), environ).interrupted == ()


def test_more_orders_than_an_environment_holds_do_not_keep_the_agent_from_starting(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    orders = [Interrupted(command_id="\1" * 256, module="slow")] * 1000
    HeldOff(str(tmp_path), environ).add(spin(), S, orders)
    assert len(environ[VARIABLE].encode()) < 1 << 17  # as long as one may be
    after = HeldOff(str(tmp_path), environ)
    assert (after.just, 10 < len(after.interrupted) < 1000) == ({"slow"}, True)
