"""The configuration: defaults, files, environment, flags, orders of this run; every problem found at once.

Later sources win: the defaults of the option table, FILE (agent.toml), `agent.d/*.toml` beside it in order of name,
`AEGIS_SECTION__KEY` (only names with two underscores in a row are configuration), what was remembered (`aegis modules
enable`), flags. A missing default file is no problem; a missing file that was named is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from aegis.errors import ConfigError
from aegis.runtime import modules_found, options
from aegis.runtime.settings import Option, Settings, Value

DEFAULT_FILE = Path("/etc/aegis/agent.toml")
PREFIX = "AEGIS_"
MAX_FILE_BYTES = 1 << 20
_BOOLEANS = {"true": True, "false": False}

Problem = tuple[str, str, str]  # option path, origin, sentence


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One option with its value now and where it came from: `default`, `FILE:LINE`, a variable, a flag."""

    path: str
    value: Value
    origin: str

    @property
    def shown(self) -> object:
        return list(self.value) if isinstance(self.value, tuple) else self.value


class Configuration:
    """A whole valid configuration. Immutable: a reload makes another one."""

    def __init__(self, settings: Mapping[str, Setting], table: OptionTable) -> None:
        self._settings = dict(settings)
        self.options = table

    def values(self) -> tuple[Setting, ...]:
        """Every option, by path."""
        return tuple(self._settings[path] for path in sorted(self._settings))

    def __getitem__(self, path: str) -> Setting:
        return self._settings[path]

    def with_settings(self, others: Mapping[str, Setting]) -> Configuration:
        """This one with other settings over it, of paths it has."""
        kept = {path: others[path] for path in others if path in self._settings}
        return Configuration({**self._settings, **kept}, self.options)

    def table(self, name: str) -> Settings:
        """The settings of one table: `kernel`, `modules.telemetry`."""
        prefix = f"{name}."
        return Settings(
            name,
            {
                path.removeprefix(prefix): setting.value
                for path, setting in self._settings.items()
                if path.startswith(prefix) and "." not in path.removeprefix(prefix)
            },
        )

    def changes(self, other: Configuration) -> tuple[str, ...]:
        """Paths whose value differs in `other`."""
        return tuple(
            path
            for path in sorted({*self._settings, *other._settings})
            if _value_of(self._settings.get(path)) != _value_of(other._settings.get(path))
        )


def _value_of(setting: Setting | None) -> object:
    return None if setting is None else setting.value


class OptionTable:
    """Every option by path. Below a prefix in `opaque` (a module whose config.py is broken) nothing is judged."""

    def __init__(self, rows: Sequence[Option], opaque: frozenset[str] = frozenset()) -> None:
        self.by_path = {row.name: row for row in rows}
        self.opaque = opaque
        self._tables = {name for row in rows for name in _parents(row.name)} | {
            parent for prefix in opaque for parent in (prefix, *_parents(prefix))
        }

    def is_table(self, path: str) -> bool:
        return path in self._tables

    def is_opaque(self, path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}.") for prefix in self.opaque)

    def unknown(self, path: str) -> str:
        """The sentence for a path that is no option, with the nearest one that is."""
        import difflib  # noqa: PLC0415  for a mistake only

        near = difflib.get_close_matches(path, [*self.by_path, *self._tables], n=1, cutoff=0.75)
        return f"there is no such option{f'; did you mean {near[0]}?' if near else ''}"


def _parents(path: str) -> Iterator[str]:
    parts = path.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count])


def option_table(package: str = modules_found.PACKAGE) -> OptionTable:
    """The runtime's options and those of every module found in `package`."""
    rows = list(options.OPTIONS)
    opaque = set()
    for name in modules_found.names(package):
        try:
            own = modules_found.options(name, package)
        except Exception:  # noqa: BLE001  the supervisor tries again and reports the module as failed, with the reason
            opaque.add(f"modules.{name}")
            continue
        rows += [
            msgspec.structs.replace(option, name=f"modules.{name}.{option.name}")
            for option in (options.ENABLED, *own)
        ]
    return OptionTable(rows, frozenset(opaque))


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, Value]] | None = None,
    remembered: Callable[[str], Mapping[str, tuple[str, Value]]] | None = None,
    table: OptionTable | None = None,
) -> Configuration:
    """Read all sources and judge them together. Raises ConfigError with every problem.

    `flags` maps an option's path to the flag and the value. `remembered` is asked the same of the state directory; an
    option that is no more is passed over there, since no person wrote it.
    """
    table = table or option_table()
    problems: list[Problem] = []
    settings = {
        path: Setting(path=path, value=option.default, origin="default")
        for path, option in table.by_path.items()
    }
    for source_file in _files(file, problems):
        _take_file(source_file, table, settings, problems)
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(PREFIX) and "__" in name.removeprefix(PREFIX):
            _take_variable(name, text, table, settings, problems)
    given = dict(flags or {})
    _, state_dir = given.get("agent.state_dir", ("", settings["agent.state_dir"].value))
    if remembered is not None and isinstance(state_dir, str):
        kept = remembered(state_dir)
        given = {path: kept[path] for path in kept if path in table.by_path} | given
    for path, (origin, value) in given.items():
        _take(path, value, origin, table, settings, problems)
    chosen = settings["agent.modules"]
    problems += [
        (chosen.path, chosen.origin, f"there is no module {name!r}")
        for name in (chosen.value if isinstance(chosen.value, tuple) else ())
        if not table.is_table(f"modules.{name}")
    ]
    if problems:
        raise ConfigError(tuple(problems))
    return Configuration(settings, table)


def _files(file: Path | None, problems: list[Problem]) -> Iterator[Path]:
    main = DEFAULT_FILE if file is None else file
    if file is not None or main.exists():
        yield main
    drop_ins = main.parent / "agent.d"
    try:
        yield from sorted(path for path in drop_ins.glob("*.toml") if not path.name.startswith("."))
    except OSError as error:
        problems.append(("", str(drop_ins), f"cannot be read: {error.strerror}"))


def _take_file(path: Path, table: OptionTable, settings: dict[str, Setting], problems: list[Problem]) -> None:
    import tomllib  # noqa: PLC0415  most agents have no file, and start without the parser

    from aegis.runtime.toml_lines import lines_of  # noqa: PLC0415

    raw = b""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            problems.append(("", str(path), f"is larger than {MAX_FILE_BYTES} bytes"))
            return
        text = raw.decode()
        tree = tomllib.loads(text)
    except OSError as error:
        problems.append(("", str(path), f"cannot be read: {error.strerror}"))
        return
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(("", f"{path}:{line}", "is not UTF-8"))
        return
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problems.append(("", str(path), f"is not TOML: {error}"))
        return
    lines = lines_of(text)
    for names, value in _leaves(tree, table):
        line = lines.get(names) or next(
            (lines[names[:count]] for count in range(len(names), 0, -1) if names[:count] in lines), 1
        )
        _take(".".join(names), value, f"{path}:{line}", table, settings, problems)


def _leaves(
    tree: Mapping[str, Any], table: OptionTable, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Values by path; a table that no option lives in is one leaf, so that it is named once."""
    for name, value in tree.items():
        names = (*place, name)
        if isinstance(value, dict) and table.is_table(".".join(names)):
            yield from _leaves(value, table, names)
        else:
            yield names, value


def _take(
    path: str,
    value: object,
    origin: str,
    table: OptionTable,
    settings: dict[str, Setting],
    problems: list[Problem],
) -> None:
    option = table.by_path.get(path)
    if option is None:
        if not table.is_opaque(path):
            text = "is a table of options" if table.is_table(path) else table.unknown(path)
            problems.append((path, origin, text))
        return
    problem = option.problem(value)
    if problem:
        problems.append((path, origin, problem))
        return
    settings[path] = Setting(path=path, value=_plain(option, value), origin=origin)


def _plain(option: Option, value: Any) -> Value:
    if option.kind == "float":
        return float(value)
    return tuple(value) if option.kind == "list" else value


def _take_variable(
    name: str, text: str, table: OptionTable, settings: dict[str, Setting], problems: list[Problem]
) -> None:
    path = name.removeprefix(PREFIX).lower().replace("__", ".")
    option = table.by_path.get(path)
    value: object = text
    if option is not None:
        value = from_text(option, text)
    _take(path, value, name, table, settings, problems)


def from_text(option: Option, text: str) -> object:
    """A variable's text as the option's kind; text that cannot be is left as it is, for `Option.problem` to name."""
    if option.kind == "bool":
        return _BOOLEANS.get(text.strip().lower(), text)
    if option.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if option.kind in {"int", "float"}:
        try:
            return int(text) if option.kind == "int" else float(text)
        except ValueError:
            return text
    return text
