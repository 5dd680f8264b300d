"""`aegis demo`: the main job on real traffic, in namespaces it makes and removes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.ending import Ending, orderly
from aegis.cli.exits import EXIT_FAILED, EXIT_REFUSED
from aegis.cli.extras import line_for

if TYPE_CHECKING:
    from aegis.cli.demo.stage import Stage
    from aegis.cli.demo.steps import Step

# Features without which no step can be shown, by the names of `aegis doctor`.
NEEDED = ("bpf", "btf", "ringbuf", "tracing", "sk_storage", "cgroup2", "cgroup", "iterators")


@click.command(epilog="\b\nExamples:\n  aegis demo\n  aegis demo --json\n  aegis demo --keep")
@click.option(
    "--keep", is_flag=True, help="Leave agent and namespaces up until interrupted; says how to look further."
)
@click.option("--json", "as_json", is_flag=True, help="One object a step: step, ok, evidence.")
@click.pass_context
def demo(context: click.Context, keep: bool, as_json: bool) -> None:
    """See, count and cut real traffic between two namespaces, each step with the figures that prove it.

    Needs root and BPF; without them it names what is missing and exits 4. Exits 1 when a step failed.
    """
    given = context.find_root().params.get("output") if context.parent else None
    if given not in (None, "json"):
        raise click.UsageError(f"the demo has no format {given!r}; there is json, and text by default")
    as_json = as_json or given == "json"
    lacking = missing()
    if lacking:
        for text in lacking:
            click.echo(f"aegis: missing: {text}", err=True)
        click.echo("aegis: no step of the demo can run without these", err=True)
        context.exit(EXIT_REFUSED)
    gateway = can_run_gateway()
    if not gateway:
        click.echo(
            "aegis: missing: the gateway's packages; the steps that need them are left out\n"
            f"  hint: {line_for('gateway')}",
            err=True,
        )
    failed = 0
    # Closed before anything else is done about an exception: what is on the stage goes with the generator.
    with orderly() as ending, closing(play(ending, keep=keep, quiet=as_json, gateway=gateway)) as steps:
        for step in steps:
            failed += not step.ok
            if as_json:
                click.echo(
                    json.dumps(
                        {"step": step.number, "title": step.title, "ok": step.ok, "evidence": step.evidence}
                    )
                )
            else:
                _show(step)
    if not as_json:
        click.echo("all steps hold" if not failed else f"{failed} steps failed")
    if failed:
        context.exit(EXIT_FAILED)
    if not gateway:
        context.exit(EXIT_REFUSED)


def can_run_gateway() -> bool:
    """Whether what the extra `gateway` brings is installed."""
    return all(importlib.util.find_spec(name) for name in ("litestar", "sqlalchemy", "uvicorn"))


def missing() -> list[str]:
    """What the demo needs and this process or kernel lacks, one sentence each."""
    if os.geteuid() != 0:
        return ["root: namespaces and BPF programs need it; run it with sudo"]
    from aegis.kernel.features import probe_all

    found = {feature.name: feature for feature in probe_all()}
    lacking = [
        f"{name}: {found[name].reason}; {found[name].hint}"
        for name in NEEDED
        if name in found and found[name].state == "missing"
    ]
    if all(found[name].state == "missing" for name in ("tcx", "clsact") if name in found):
        lacking.append("tcx and clsact: no hook for packet programs")
    return lacking


def play(ending: Ending, *, keep: bool, quiet: bool, gateway: bool) -> Generator[Step]:
    """Run the steps one after the other; the stage is removed at the end, also when a step raises.

    Without `gateway` those that need none.
    """
    from aegis.cli.demo.stage import INTERFACE, open_stage
    from aegis.cli.demo.steps import Play

    with open_stage() as stage:
        if not quiet:
            click.echo(
                "Network namespaces of this demo's own, joined by veth pairs; nothing else is touched:"
            )
            click.echo(
                f"  packet programs at tc on {INTERFACE} ({stage.edge_v4}), inside the first namespace"
            )
            click.echo(f"  socket owner hook on the cgroup {stage.cgroup}")
            click.echo(
                "  counters of nftables on both ends of that pair, where nft is there; they only count"
            )
            click.echo("  tracepoints for exec, exit, fork, TCP states and cgroups, which only read")
            if gateway:
                click.echo(
                    "  a gateway on SQLite in the third namespace, with its data in a directory of its own"
                )
        gateway_s = stage.start_gateway() if gateway else None
        start_s = stage.start_agent()
        run = Play(stage)
        try:
            if gateway_s is not None:
                run.await_connected()
            for act in (run.see, run.balance, run.observe, run.enforce):
                yield act()
            if gateway:
                yield run.order_about()
            yield run.measure(start_s, gateway_s)
            if keep:
                _keep(stage)
        finally:
            ending.begin()
            run.close()


def _keep(stage: Stage) -> None:
    click.echo(
        f"\nThe agent keeps running (pid {stage.agent.pid if stage.agent else '-'}). Look further with:",
        err=True,
    )
    for command in ("status", "events -f", "flows", "policy list", "counters"):
        click.echo(f"  aegis --socket {stage.socket} {command}", err=True)
    click.echo("Interrupt with Ctrl-C to remove everything.", err=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo("removing", err=True)


def _show(step: Step) -> None:
    click.echo(f"\n{'ok  ' if step.ok else 'FAIL'} {step.number}. {step.title}")
    for name, value in step.evidence.items():
        click.echo(f"       {name.replace('_', ' ')}: {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {amount}" for name, amount in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "-" if value is None else str(value)
