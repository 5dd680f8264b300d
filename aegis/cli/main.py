"""The `aegis` tool: a lazy table of commands; nothing heavy is imported until one runs."""

from __future__ import annotations

import importlib
import os
import sys

import click

from aegis.cli.exits import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TIMEOUT, exit_code_of
from aegis.cli.target import gateway_options, is_gateway_named
from aegis.errors import AegisError

# name -> (module, attribute, one-line help): the whole surface of the tool, in the order of --help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "status": ("aegis.cli.status", "status", "What runs, what is missing, and what to do next."),
    "doctor": ("aegis.cli.doctor", "doctor", "What this kernel and machine can do, tried out."),
    "events": ("aegis.cli.events", "events", "Processes, sockets and verdicts as they happen."),
    "flows": ("aegis.cli.flows", "flows", "Flows with owner, counters and verdict."),
    "counters": ("aegis.cli.counters", "counters", "Every conservation identity, term by term."),
    "policy": ("aegis.cli.policy", "policy", "Check, apply, list, explain and remove policies."),
    "modules": ("aegis.cli.modules", "modules", "List, start, stop, enable, disable, configure modules."),
    "gateway": ("aegis.cli.gateway", "gateway", "Run a gateway; list its agents, send them orders."),
    "config": ("aegis.cli.config", "config", "Check the configuration; show where each value comes from."),
    "demo": ("aegis.cli.demo.command", "demo", "The main job on real traffic, in namespaces of its own."),
}

# The commands that can ask a gateway in place of this host's agent.
ASK_A_GATEWAY = frozenset({"events", "flows", "modules", "gateway"})


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry[0]), entry[1])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


EPILOG = """\b
Examples:
  aegis status
  aegis events -f -o compact --type exec
  aegis flows --verdict deny
  aegis policy apply no-telnet.yaml
"""


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if not value:
        return
    from aegis.cli.version import print_version

    print_version(ctx.params.get("output"))
    ctx.exit(0)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--socket",
    "socket_path",
    envvar="AEGIS_SOCKET",
    default="/run/aegis/agent.sock",
    show_default=True,
    help="Control socket of the agent.",
)
@gateway_options
@click.option(
    "-o",
    "--output",
    default=None,
    is_eager=True,
    help="Format of the command, where it is given none; of --version: json, or text by default.",
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=False,
    expose_value=False,
    callback=_print_version,
    help="Versions of the package, the ABI and libbpf.",
)
@click.pass_context
def cli(ctx: click.Context, socket_path: str, output: str | None) -> None:  # noqa: ARG001
    """See, count and cut what happens on this machine's network, through a running aegis-agent."""
    ctx.obj = socket_path
    asked = ctx.invoked_subcommand
    if asked is not None and asked not in ASK_A_GATEWAY and is_gateway_named(ctx):
        able = ", ".join(sorted(ASK_A_GATEWAY))
        raise click.UsageError(f"{asked} asks the agent of this host; --gateway is for {able}")


def _run() -> object:
    if "_AEGIS_COMPLETE" in os.environ:
        return cli.main(prog_name="aegis")
    # Not cli.main(): it turns a broken pipe into exit code 1 before anyone can tell it from a failure.
    try:
        with cli.make_context("aegis", sys.argv[1:]) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code


def main() -> None:
    """Entry point of `aegis`: runs a command and turns errors into exit codes."""
    try:
        result = _run()
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AegisError as error:
        from aegis.cli.failures import show_error

        show_error(error)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except TimeoutError:
        sys.exit(EXIT_TIMEOUT)
    except BrokenPipeError:
        # Python flushes stdout at exit and would complain again about the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except Exception as error:  # noqa: BLE001 - a user is told in one line, whatever went wrong
        text = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(f"aegis: internal_error: {text}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
