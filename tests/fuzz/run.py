"""`./dev fuzz [NAME...] [--minutes N]`: each entry under atheris for a bounded time, then what its corpus reaches.

An entry is a file `fuzz_NAME.py` with a function `one(data)` that raises for a wrong answer, and `PARSERS`: the files
whose code it is about (FILE, or FILE:NAME for one function or class of it). What the fuzzer finds of interest is kept
in build/fuzz/NAME and is where the next run begins. A crash is an input in build/fuzz/crashes and exit code 1.

`--planted` puts a bug into a copy of each parser in PLANTED and expects it to be found: a fuzzer that finds nothing
must be one that would.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import entry
from tests.fuzz.branches import Branches

ROOT = Path(__file__).resolve().parents[2]
GROWN = ROOT / "build/fuzz"
CRASHES = GROWN / "crashes"
GOAL = 0.9  # of the branches of a parser
DEFAULT_MINUTES = 0.25
MEMORY_BYTES = 2 << 30
REPLAYED = 3000  # inputs of a corpus that are traced instruction by instruction
MUTATED = 2000  # and mutations of those that came with the entry
PLANT_SECONDS = 300.0
# Entry, file, what stands there and what is put in its place: bugs of the kinds parsers have.
PLANTED: tuple[tuple[str, str, str, str], ...] = (
    ("policy", "aegis/model/policy_rules.py", "if cidr is None:", "if False:"),
    ("policy", "aegis/model/policy_document.py", "except PolicyInvalid as error:", "except ZeroDivisionError as error:"),
    ("toml", "aegis/runtime/toml_lines.py", "statement.clear()\n        if header", "if header"),
    ("control", "aegis/agent/control/envelope.py", "(msgspec.DecodeError, UnicodeError, RecursionError)", "(RecursionError,)"),
    ("control", "aegis/agent/answers.py", "if not 0 <= protocol <= 255:", "if not -1 <= protocol <= 255:"),
    ("proc", "aegis/host/procfs.py", "if text.isdigit() and len(text) <= 20 and", "if"),
    ("proc", "aegis/host/processes.py", "if len(found) != 2:", "if not found:"),
    ("envelope", "aegis/protocol/envelope.py", "(msgspec.DecodeError, UnicodeEncodeError, RecursionError)", "(msgspec.DecodeError,)"),
    ("base64text", "aegis/protocol/base64text.py", "if encode(data[start:]) != text[start // 3 * 4 :]:", "if False:"),
    ("auth", "aegis/protocol/payloads.py", "(msgspec.DecodeError, UnicodeError, RecursionError, ValueError)", "(msgspec.DecodeError,)"),
    ("registration", "aegis/protocol/payloads.py", "if len(data) > REGISTRATION_BYTES:", "if False:"),
    ("batch", "aegis/protocol/payloads.py", "if memoryview(each)[0] != 0x7B:", "if False:"),
    ("push", "aegis/protocol/payloads.py", "if not isinstance(body, dict):", "if body is None:"),
    ("orders", "aegis/protocol/orders.py", '_YAML_ESCAPED = re.compile("[\\x7f-', '_YAML_ESCAPED = re.compile("[\\x80-'),
    ("orders", "aegis/protocol/policy_variants.py", "except ValueError as error:", "except ZeroDivisionError as error:"),
    ("error", "aegis/protocol/payloads.py", 'each if each.isprintable() else " "', "each"),
    ("gateway_session", "aegis/protocol/gateway.py", "if self._uid is None:", "if False:"),
    ("agent_session", "aegis/protocol/agent.py", "if not v1.ID.fullmatch(reply.agent_uid):", "if False:"),
    ("upgrade", "aegis/protocol/upgrade.py", "if not is_sound(key):", "if len(key) != 32:"),
    ("items", "aegis/gateway/store/items.py", "(msgspec.MsgspecError, UnicodeDecodeError, RecursionError)", "(msgspec.MsgspecError,)"),
    ("shared", "aegis/gateway/store/sharing.py", "if each != _NOTHING:", "if False:"),
    ("shared", "aegis/protocol/shared_items.py", "elif below < place:", "elif below <= place:"),
    ("api", "aegis/gateway/store/reading.py", "max(int(match[1]), int(match[2]))", "int(match[1])"),
    ("api", "aegis/gateway/api/requests.py", "(msgspec.DecodeError, UnicodeDecodeError)", "msgspec.DecodeError"),
    ("block", "aegis/model/block.py", "if type(value) is not bytes or len(value)", "if len(value)"),
    ("outbox_rows", "aegis/agent/outbox/rows.py", "if len(plain) < _HEAD.size:", "if False:"),
    ("gateway_url", "aegis/runtime/gateway_url.py", "if not 0 < port < 65536:", "if port > 65535:"),
    ("identity", "aegis/agent/identity.py", "except (StorageError, *_MALFORMED):", "except (StorageError, msgspec.DecodeError):"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the fuzzer came to."""

    name: str
    executed: int
    per_second: float
    crash: Path | None
    said: str  # of the crash: the end of the traceback


def parsers(name: str) -> tuple[str, ...]:
    """`PARSERS` of the entry; the whole of aegis/protocol where it names none."""
    found: tuple[str, ...] | None = getattr(entry.module(name), "PARSERS", None)
    if found is not None:
        return found
    return tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "aegis/protocol").glob("*.py")))


def in_python(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.endswith(".pyx"))


def fuzz(name: str, seconds: float, overlay: Path | None = None) -> Outcome:
    """One entry in a process of its own. `overlay`: a folder with other versions of some files of the tree."""
    grown = GROWN / name if overlay is None else overlay / "grown"
    grown.mkdir(parents=True, exist_ok=True)
    crashes = CRASHES if overlay is None else overlay
    crashes.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", "--child", name, "--seconds", str(seconds)]
    command += ["--grown", str(grown), "--crashes", str(crashes)]
    environment = dict(os.environ)
    if overlay is not None:
        environment["AEGIS_FUZZ_OVERLAY"] = str(overlay)
    begun = time.monotonic()
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    took = time.monotonic() - begun
    said = ran.stdout + ran.stderr
    counted = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", said, re.MULTILINE) or re.findall(
        r"^#(\d+)\s", said, re.MULTILINE
    )
    executed = int(counted[-1]) if counted else 0
    kept = re.findall(r"Test unit written to (\S+)", said)
    if ran.returncode and not kept:
        raise RuntimeError(f"{name}: the fuzzer ended with {ran.returncode}:\n{said[-3000:]}")
    traceback = ran.stdout.partition("=== Uncaught Python exception: ===")[2].strip()
    return Outcome(
        name=name,
        executed=executed,
        per_second=executed / max(took, 1e-9),
        crash=Path(kept[-1]) if ran.returncode else None,
        said=traceback[-2000:] or said[-1000:],
    )


def child(name: str, seconds: float, grown: str, crashes: str) -> None:
    """In the process that fuzzes: the parsers are imported with a counter at each branch, then it goes on to the end."""
    import atheris  # type: ignore[import-untyped]

    overlay = os.environ.get("AEGIS_FUZZ_OVERLAY")
    files = in_python(parsers(name))
    modules = [file.partition(":")[0].removesuffix(".py").replace("/", ".") for file in files]
    for package in {module.rpartition(".")[0] for module in modules} if overlay is not None else ():
        folder = Path(str(overlay)) / package.replace(".", "/")
        if folder.is_dir():  # before the package is imported: it may import its modules itself
            importlib.import_module(package.rpartition(".")[0]).__path__.insert(0, str(folder.parent))
    with atheris.instrument_imports(include=modules):
        for module in modules:
            importlib.import_module(module)
    loaded = entry.module(name)
    if not modules:  # a native parser: the entry's own branches are all there is to see
        atheris.instrument_func(loaded.one)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-artifact_prefix={crashes}/{name}-",
        "-print_final_stats=1",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        "-verbosity=1",
    ]
    corpora = [grown, str(ROOT / "tests/fuzz/corpus" / name)]
    atheris.Setup([sys.argv[0], *options, *corpora], loaded.one)
    atheris.Fuzz()


def reached(names: list[str]) -> list[tuple[tuple[str, ...], Branches]]:
    """The branches that the corpora of these entries take; entries about the same parsers together."""
    together: dict[tuple[str, ...], Branches] = {}
    for name in names:
        files = in_python(parsers(name))
        if not files:
            continue
        branches = together.setdefault(files, Branches(files))
        seeds = entry.corpus(name)
        grown = sorted((GROWN / name).iterdir()) if (GROWN / name).is_dir() else []
        inputs = [b"", *seeds, *(path.read_bytes() for path in grown[:REPLAYED])]
        inputs += entry.mutations(seeds, MUTATED, seed=1)
        branches.run(entry.load(name), inputs)
    return list(together.items())


def plant(number: int, directory: Path) -> str:
    """Make an overlay with one planted bug; the entry that should find it."""
    name, file, there, instead = PLANTED[number]
    text = (ROOT / file).read_text()
    if text.count(there) < 1:
        raise LookupError(f"{file} has no {there!r} any more: plant another bug")
    place = directory / file
    place.parent.mkdir(parents=True)
    place.write_text(text.replace(there, instead, 1))
    for sibling in (ROOT / file).parent.iterdir():
        if sibling.name not in {place.name, "__pycache__"}:
            (place.parent / sibling.name).symlink_to(sibling)
    return name


def planted(seconds: float) -> bool:
    """Whether each planted bug is found in time."""
    found = True
    for number, (_, file, _, instead) in enumerate(PLANTED):
        with tempfile.TemporaryDirectory() as made:
            name = plant(number, Path(made))
            begun = time.monotonic()
            outcome = fuzz(name, seconds, Path(made))
            took = time.monotonic() - begun
        verdict = f"found after {took:.1f} s" if outcome.crash else f"NOT FOUND in {took:.0f} s"
        print(
            f"{name:<13} {verdict}, {outcome.executed} inputs: {file}: {instead.splitlines()[0]}", flush=True
        )
        found &= outcome.crash is not None
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev fuzz", description="Fuzz the parsers, for a bounded time each."
    )
    names = entry.names()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, help="for each entry")
    parser.add_argument("--planted", action="store_true", help="check that planted bugs are found, and end")
    parser.add_argument("--missing", action="store_true", help="print each branch that was not taken")
    for hidden in ("--child", "--grown", "--crashes"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=PLANT_SECONDS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        child(chosen.child, chosen.seconds, chosen.grown, chosen.crashes)
        return 0
    unknown = set(chosen.names) - set(names)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if chosen.planted:
        return 0 if planted(min(chosen.seconds, PLANT_SECONDS)) else 1
    wanted = chosen.names or names
    crashed = False
    for name in wanted:
        outcome = fuzz(name, chosen.minutes * 60)
        print(f"{name:<13} {outcome.executed:>9} inputs  {outcome.per_second:>8.0f}/s", flush=True)
        if outcome.crash is not None:
            crashed = True
            print(f"{name:<13} CRASH: {outcome.crash.relative_to(ROOT)}\n{outcome.said}", flush=True)
    if crashed:
        return 1
    for files, branches in reached(wanted):
        below = "" if branches.share >= GOAL else f"  BELOW {GOAL:.0%}"
        subject = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        print(
            f"branches {len(branches.taken):>5} of {branches.count:<5} {branches.share:>6.1%}{below}  {subject}"
        )
        if chosen.missing:
            print("".join(f"  {line}\n" for line in branches.missing()), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
