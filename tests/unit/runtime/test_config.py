from __future__ import annotations

from pathlib import Path

import pytest

from aegis.errors import ConfigError
from aegis.runtime import options
from aegis.runtime.config import OptionTable, load, option_table
from aegis.runtime.settings import Option

EXTRA = Option(name="modules.demo.limit", kind="float", default=1.5, minimum=1, help="h")
TABLE = OptionTable((*options.OPTIONS, EXTRA))


def problems(file: Path | None, **sources: object) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(file, table=TABLE, **{"environ": {}, **sources})
    return list(caught.value.problems)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    configuration = load(None, environ={}, table=TABLE)
    assert configuration["log.level"].value == "info"
    assert {setting.origin for setting in configuration.values()} == {"default"}
    assert configuration.table("modules.demo").number("limit") == 1.5


def test_later_sources_win_and_say_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[log]\nlevel = "debug"\nformat = "json"\n[kernel]\nring_bytes = 65536\n')
    drop_ins = tmp_path / "agent.d"
    drop_ins.mkdir()
    (drop_ins / "10-a.toml").write_text('\n[kernel]\nring_bytes = 131072\ninterfaces = ["a", "b"]\n')
    (drop_ins / "20-b.toml").write_text("[kernel]\nring_bytes = 262144\n")
    configuration = load(
        file,
        table=TABLE,
        environ={"AEGIS_LOG__LEVEL": "warning", "AEGIS_MODULES__DEMO__LIMIT": "2", "AEGIS_SOCKET": "/x"},
        flags={"log.format": ("--log-format", "console")},
        remembered=lambda state: {
            "log.format": (state, "json"),
            "agent.id": (state, "here"),
            "gone.x": (state, 1),
        },
    )
    found = {setting.path: (setting.shown, setting.origin) for setting in configuration.values()}
    assert found["log.level"] == ("warning", "AEGIS_LOG__LEVEL")
    assert found["log.format"] == ("console", "--log-format")
    assert found["agent.id"] == ("here", "/var/lib/aegis")
    assert found["kernel.ring_bytes"] == (262144, f"{drop_ins / '20-b.toml'}:2")
    assert found["kernel.interfaces"] == (["a", "b"], f"{drop_ins / '10-a.toml'}:4")
    assert found["modules.demo.limit"] == (2.0, "AEGIS_MODULES__DEMO__LIMIT")


def test_every_problem_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        "[agent]\nhistory_events = true\n\n[kernel]\nring_bytes = 12\ninterfaces = 'eth0'\n[log]\nlevel = 'loud'\n"
        "lvl = 1\n[nonsense]\na = 1\nb = 2\n[modules.demo]\nlimit = 0.5\n"
    )
    broken = tmp_path / "agent.d" / "9.toml"
    broken.parent.mkdir()
    broken.write_text("[log\n")
    found = problems(
        file,
        environ={"AEGIS_LOG__FORMAT": "blue", "AEGIS_LOG__NO": "1", "AEGIS_AGENT__HISTORY_EVENTS": "x"},
        flags={"agent.loop": ("--loop", "fast")},
    )
    where = {(path, origin) for path, origin, _ in found}
    assert where == {
        ("agent.history_events", f"{file}:2"),
        ("kernel.ring_bytes", f"{file}:5"),
        ("kernel.interfaces", f"{file}:6"),
        ("log.level", f"{file}:8"),
        ("log.lvl", f"{file}:9"),
        ("nonsense", f"{file}:10"),
        ("modules.demo.limit", f"{file}:14"),
        ("", str(broken)),
        ("log.format", "AEGIS_LOG__FORMAT"),
        ("log.no", "AEGIS_LOG__NO"),
        ("agent.history_events", "AEGIS_AGENT__HISTORY_EVENTS"),
        ("agent.loop", "--loop"),
    }
    sentences = {path: text for path, _, text in found}
    assert sentences["log.lvl"] == "there is no such option; did you mean log.level?"
    assert "debug, info, warning, error" in sentences["log.level"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert problems(missing)[0][:2] == ("", str(missing))
    binary = tmp_path / "agent.toml"
    binary.write_bytes(b"[log]\nlevel = '\xff'\n")
    assert problems(binary) == [("", f"{binary}:2", "is not UTF-8")]
    binary.write_bytes(b"#" * ((1 << 20) + 1))
    assert "larger" in problems(binary)[0][2]
    binary.write_text("a = " + "[" * 100_000)
    assert "is not TOML" in problems(binary)[0][2]
    binary.write_text("log = 3\n")
    assert problems(binary) == [("log", f"{binary}:1", "is a table of options")]


def test_a_module_that_is_not_there_cannot_be_chosen() -> None:
    found = problems(None, flags={"agent.modules": ("--modules", ("demo", "demon"))})
    assert found == [("agent.modules", "--modules", "there is no module 'demon'")]


def test_nothing_is_judged_below_a_module_whose_options_are_unknown(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[modules.broken]\nx = 1\n[modules.other]\nx = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={}, table=OptionTable(options.OPTIONS, frozenset({"modules.broken"})))
    assert [path for path, _, _ in caught.value.problems] == ["modules.other"]


def test_changes_are_the_paths_whose_values_differ() -> None:
    before = load(environ={}, table=TABLE)
    after = load(environ={"AEGIS_LOG__LEVEL": "error", "AEGIS_LOG__FORMAT": "auto"}, table=TABLE)
    assert before.changes(after) == ("log.level",)
    assert before.changes(before) == ()


def test_the_option_table_is_sound() -> None:
    table = option_table()
    assert not table.opaque
    for option in table.by_path.values():
        assert option.help.endswith(".")
        assert option.default is None or option.problem(option.default) is None
        assert not table.is_table(option.name)


@pytest.mark.parametrize(
    "path",
    ["agent.state_dir", "agent.run_dir", "kernel.pin_dir", "kernel.btf", "kernel.cgroup_root", "gateway.ca"],
)
@pytest.mark.parametrize(("text", "said"), [("", "must name a path"), ("a\0b", "cannot hold NUL")])
def test_what_can_be_no_path_is_named(path: str, text: str, said: str) -> None:
    """Taken as a path, an empty text is the directory one happens to be in."""
    with pytest.raises(ConfigError) as caught:
        load(Path("/dev/null"), environ={}, flags={path: ("--flag", text)})
    ((where, origin, sentence),) = caught.value.problems
    assert (where, origin) == (path, "--flag")
    assert said in sentence
