"""The command line of `muster`: all commands and their flags, and the exit code of a run.

Roles are declared here; each command that talks to a running Muster is a module of its own.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eventstore.errors import MusterError
from muster import __version__
from muster.cli.arguments.command import Subparsers
from muster.cli.doctor import doctor
from muster.cli.events import logs, tail
from muster.cli.maintenance import recover, replay, verify
from muster.cli.resources import parked, pools, ps, spawn, terminate, workers
from muster.settings.loading import load
from muster.settings.settings import Settings

EPILOG = """\
examples:
  muster up                                 everything on this machine, nothing else needed
  muster spawn developer_pool --project demo --count 15
  muster ps                                 which agents run where
  muster tail --follow                      the log, as it is written

The settings of up, gateway, projector and supervisor may also be set in the environment, as
MUSTER_<FLAG>, and in muster.toml.
"""


def command_line() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="muster",
        description="An auto-scaling pool of long-lived agents, event-sourced over Redis Streams.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"muster {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    _add_roles(subparsers)
    register(subparsers)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the named command; returns the exit code."""
    _open_streams()
    parser = command_line()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        return command(args)
    except MusterError as error:
        print(f"muster {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _open_streams() -> None:
    """Make all text printable: closed streams go nowhere, unsupported letters become escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _add_roles(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    up = _role(
        subparsers,
        "up",
        "run everything on this machine",
        "Run projector, supervisor and gateway, with a Valkey of their own unless one is given,"
        " all under one data folder.",
        "muster up\n  muster up --config muster.toml --port 9000\n"
        "  MUSTER_REDIS_URL=redis://localhost muster up --data-dir /var/lib/muster",
        _up,
    )
    _add_gateway_flags(up)
    _add_worker_flags(up)
    up.add_argument(
        "--embedded",
        action="store_true",
        default=None,
        help="use the embedded server and SQLite, whatever the environment says",
    )
    up.add_argument(
        "--single-process",
        action="store_true",
        default=None,
        help="no worker processes: agents run inside this one, ten per pool",
    )
    up.add_argument("--appendfsync", metavar="HOW", help="everysec (default) or always")
    _add_recovery_flags(up)
    up.add_argument(
        "--fallback",
        metavar="HOW",
        help="what to do if Redis is unreachable at the start: none (default) waits for it,"
        " single-process uses a log of its own",
    )
    _add_retention_flags(up)
    gateway = _role(
        subparsers,
        "gateway",
        "run only the HTTP gateway",
        "Answer HTTP. Any number of gateways may run; they hold no state.",
        "MUSTER_REDIS_URL=redis://localhost muster gateway --port 8000",
        _role_command("gateway"),
    )
    _add_gateway_flags(gateway)
    projector = _role(
        subparsers,
        "projector",
        "run only the projector",
        "Fold the streams into SQL. One is active, others are on standby.",
        "MUSTER_REDIS_URL=redis://localhost DATABASE_URL=postgresql://localhost/muster"
        " muster projector",
        _role_command("projector"),
    )
    _add_recovery_flags(projector)
    _add_retention_flags(projector)
    supervisor = _role(
        subparsers,
        "supervisor",
        "run only this host's supervisor",
        "Start, watch and stop the workers of this host.",
        "MUSTER_REDIS_URL=redis://localhost muster supervisor --config muster.toml",
        _role_command("supervisor"),
    )
    _add_worker_flags(supervisor)


def _add_recovery_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--auto-recover",
        action="store_true",
        default=None,
        help="recover a log that Redis lost without waiting for `muster recover`",
    )


def _add_retention_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retention-age-seconds",
        metavar="S",
        help="remove archived events older than this from Redis (default 86400)",
    )
    parser.add_argument(
        "--retention-events",
        metavar="N",
        help="remove archived events beyond this number per pool from Redis (default 100000)",
    )


def _role(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    description: str,
    examples: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n  {examples}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: ./muster.toml, if any"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: .muster")
    parser.add_argument("--redis-url", metavar="URL", help="Redis or Valkey (or MUSTER_REDIS_URL)")
    parser.add_argument("--database-url", metavar="URL", help="PostgreSQL (or DATABASE_URL)")
    parser.add_argument("--key-prefix", metavar="TEXT", help="in front of every Redis key")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    return parser


def _add_gateway_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, metavar="N", help="default: 8000; 0: any free one")
    parser.add_argument(
        "--allowed-hosts", metavar="NAMES", help="more names to accept in a request's Host header"
    )
    parser.add_argument(
        "--durability",
        metavar="LEVEL",
        help="for commands that request none: accepted (default), fsynced, replicated or archived",
    )


def _add_worker_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--app-dir", type=Path, metavar="DIR", help="folder that agent classes are imported from"
    )
    parser.add_argument("--shutdown-seconds", type=float, metavar="S", help="default: 25")


def _settings(args: argparse.Namespace) -> Settings:
    return load(vars(args), os.environ)


def _up(args: argparse.Namespace) -> int:
    from muster.up import up

    return up.run(_settings(args))


def _role_command(role: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        from muster.process import role_main

        return role_main.run(role, _settings(args))

    return run


def register(subparsers: Subparsers) -> None:
    """Add these commands to the parser of `muster`."""
    for module in (
        spawn,
        terminate,
        ps,
        pools,
        workers,
        parked,
        logs,
        tail,
        replay,
        recover,
        verify,
        doctor,
    ):
        module.add(subparsers)
