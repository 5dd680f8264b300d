"""`aegis-agent`: the daemon. Exit codes: 0 clean stop, 1 crash, 2 usage, 77 directory unusable, 78 configuration invalid."""

from __future__ import annotations

from aegis.agent.entry import SIGNALS  # first of all: takes the signals

EXIT_OK = 0
EXIT_DIRECTORY = 77
EXIT_CONFIG = 78


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop. Returns the exit code; wrong usage leaves by SystemExit(2)."""
    try:
        return _main(arguments)
    finally:
        SIGNALS.ignore()


def _told_to_stop() -> bool:
    return SIGNALS.stopping


def _main(arguments: list[str] | None) -> int:
    import contextlib
    import gc
    import sys

    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("aegis-agent")  # for who asks by name, as `pgrep` does

    gc.disable()  # until everything is started and frozen: collecting while importing finds nothing and costs 20 ms

    from aegis.agent.arguments import parse, to_flags
    from aegis.errors import ConfigError, StorageError

    parsed = parse(arguments)
    if _told_to_stop():
        return EXIT_OK

    from aegis.agent.remembered import remembered
    from aegis.runtime.config import Configuration, load

    def read() -> Configuration:
        return load(parsed.config, flags=to_flags(parsed), remembered=remembered)

    try:
        configuration = read()
    except ConfigError as error:
        for path, origin, text in error.problems:
            sys.stderr.write(f"aegis-agent: {origin}: {path + ': ' if path else ''}{text}\n")
        return EXIT_CONFIG
    if parsed.check:
        from aegis.agent.foresight import foresight

        sys.stdout.writelines(f"{line}\n" for line in ("configuration ok", *foresight(configuration)))
        return EXIT_OK
    if _told_to_stop():
        return EXIT_OK

    from aegis.agent.directories import Directories

    try:
        directories = Directories.take(
            configuration.table("agent"), configuration.table("kernel").text("pin_dir")
        )
    except StorageError as error:
        sys.stderr.write(f"aegis-agent: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return EXIT_DIRECTORY
    with directories:
        if _told_to_stop():
            return EXIT_OK

        from aegis.agent.life import live

        return live(configuration, read, directories)


if __name__ == "__main__":
    raise SystemExit(main())
