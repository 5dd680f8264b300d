from __future__ import annotations

from aegis.kernel import abi
from aegis.kernel.sensors import KIND_NAMES, SENSORS
from aegis.runtime import topics


def test_each_sensor_topic_of_the_bus_has_one_sensor() -> None:
    assert sorted(sensor.topic for sensor in SENSORS) == sorted(topics.SENSORS)


def test_no_program_and_no_kind_twice() -> None:
    programs = [name for sensor in SENSORS for name in sensor.programs]
    kinds = [kind for sensor in SENSORS for kind in sensor.kinds]
    assert len(set(programs)) == len(programs)
    assert len(set(kinds)) == len(kinds)


def test_kinds_have_names() -> None:
    assert KIND_NAMES[abi.KIND_EXEC] == "exec"
    assert KIND_NAMES[abi.KIND_VERDICT] == "verdict"
    assert abi.KINDS not in KIND_NAMES
