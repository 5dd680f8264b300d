"""The heavy tests at full scale: `./dev soak NAME... [--minutes N]`.

Each round runs a selection of tests with `AEGIS_SCALE=full` and a fresh seed, and appends one JSON line to
benchmarks/results/soak.jsonl: what ran, on which commit, from which seed, how it ended. With --minutes, rounds follow
each other until the time is over, so a stopped soak is gone on with by starting it again.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.check import RESULTS, ROOT, commit
from tests.support.scale import SCALE, SEED


@dataclass(frozen=True, slots=True)
class Soak:
    what: str
    selection: tuple[str, ...]  # arguments of pytest


SOAKS: dict[str, Soak] = {
    "policy": Soak(
        "random policies and packets: reference, image, kernel and nftables agree",
        (
            "tests/property/test_policy_image.py",
            "tests/bpf/test_policy_lookup.py",
            "tests/bpf/test_enforce_packets.py",
        ),
    ),
    "subjects": Soak(
        "1,000 restarts of denied and allowed units and executables, by every way in; random trees; restarts of the agent",
        (
            "tests/property/test_automaton.py",
            "tests/bpf/test_subjects.py",
            "tests/bpf/test_subject_restart.py",
            "tests/bpf/test_subject_tables.py",
        ),
    ),
    "names": Soak(
        "10,000 resolve-then-connect under default deny, and hostile answers",
        (
            "tests/bpf/test_names_live.py",
            "tests/bpf/test_names_answers.py",
            "tests/bpf/test_names_policy.py",
        ),
    ),
    "ring": Soak("records under wake-up races, none lost or read twice", ("tests/native/test_ringbuf.py",)),
    "workload": Soak(
        "known numbers of execs, connections and packets", ("tests/e2e/test_known_workload.py",)
    ),
    "stop": Soak("signals at random moments of the agent's life", ("tests/e2e/test_agent_shutdown.py",)),
    "kill": Soak(
        "the outbox killed or failed at each system call of its write path",
        (
            "tests/e2e/test_outbox_faults.py::test_killed_at_any_system_call_of_the_write_path",
            "tests/e2e/test_outbox_faults.py::test_an_error_at_any_system_call_of_the_write_path",
        ),
    ),
    "power": Soak(
        "1,000 power cuts under the outbox",
        (
            "tests/e2e/test_outbox_faults.py::test_power_cuts_lose_nothing_that_was_promised",
            "tests/e2e/test_outbox_faults.py::test_the_power_cut_finds_a_store_that_does_not_flush",
        ),
    ),
    "rot": Soak(
        "each bit of the outbox file wrong, and the file cut at each byte",
        ("tests/unit/agent/outbox/test_salvage.py",),
    ),
    "link": Soak(
        "10^6 messages, 1,000 reconnects, faults of both ends and between them: nothing lost, doubled or left behind",
        ("tests/e2e/test_link_soak.py", "tests/e2e/test_link_faults.py"),
    ),
    "troubles": Soak(
        "the five troubles of the connection guide, the five silent minutes before the first message for once whole",
        ("tests/e2e/test_troubles.py",),
    ),
    "crash": Soak("kill -9 under traffic, then adoption", ("tests/e2e/test_crash.py",)),
}


def one_round(name: str, seed: int) -> bool:
    """One run of the selection; its line is appended whatever happened."""
    environment = {**os.environ, SCALE: "full", SEED: str(seed)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=3600",
        *SOAKS[name].selection,
    ]
    started, begin = datetime.now(UTC), time.monotonic()
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(run.stdout)
    last = run.stdout.strip().splitlines()[-1:] or [""]
    line = {
        "soak": name,
        "date": started.isoformat(timespec="seconds"),
        **commit(),
        "seed": seed,
        "seconds": round(time.monotonic() - begin, 1),
        "passed": run.returncode == 0,
        "summary": last[0],
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "soak.jsonl").open("a") as results:
        results.write(json.dumps(line) + "\n")
    print(f"soak {name}: seed {seed}: {'passed' if run.returncode == 0 else 'FAILED'}", flush=True)
    return run.returncode == 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev soak", description="Heavy tests at full scale.")
    listing = ", ".join(f"{name} ({soak.what})" for name, soak in SOAKS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {listing}")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with new seeds for so long")
    parser.add_argument("--seed", type=int, help="the seed of the first round")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - set(SOAKS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SOAKS)}")
    end = time.monotonic() + chosen.minutes * 60
    passed, first, seed = True, True, chosen.seed
    while first or time.monotonic() < end:
        for name in chosen.names or SOAKS:
            passed &= one_round(name, secrets.randbits(32) if seed is None else seed)
        first, seed = False, None
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
