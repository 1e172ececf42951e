"""The command line of `muster`: all commands and their flags, and the exit code of a run.

Roles are declared here; each command that talks to a running Muster is a module of its own.
"""

import argparse
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eventstore.errors import MusterError
from eventstore.plain_logging import import_structlog
from muster import __version__
from muster.cli.arguments.command import Parser, add_parser, print_unknown_variables
from muster.settings.environment import UNSET_VARIABLE
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

COMMANDS: Mapping[str, Sequence[str]] = {
    "foreground": ("run",),
    "resources": (
        "spawn",
        "terminate",
        "restart",
        "cordon",
        "uncordon",
        "drain",
        "replace",
        "ps",
        "describe",
        "explain",
        "pools",
        "workers",
        "usage",
        "plan",
        "consolidate",
        "parked",
        "alerts",
        "token",
        "webhooks",
    ),
    "events": ("logs", "tail"),
    "simulation": ("simulate", "shadow"),
    "maintenance": ("replay", "recover", "verify", "archive"),
    "doctor": ("doctor",),
    "top": ("top",),
    "completion": ("completion",),
}
"""The other commands, by the package that has a module of the same name for each."""
_SWITCH = {"action": "store_true", "default": None}
FLAGS: Mapping[str, Mapping[str, Any]] = {
    "config": {"metavar": "FILE", "help": "default: ./muster.toml, if any"},
    "data-dir": {"metavar": "DIR", "help": "default: .muster"},
    "redis-url": {"metavar": "URL", "help": "Redis or Valkey (or MUSTER_REDIS_URL)"},
    "database-url": {"metavar": "URL", "help": "PostgreSQL (or DATABASE_URL)"},
    "agents-database-url": {"metavar": "URL", "help": "what agents get from context.engine()"},
    "key-prefix": {"metavar": "TEXT", "help": "in front of every Redis key"},
    "log-level": {"metavar": "LEVEL", "help": "debug, info, warning or error"},
    "host": {"metavar": "ADDRESS", "help": "default: 127.0.0.1"},
    "port": {"type": int, "metavar": "N", "help": "default: 8000; 0: any free one"},
    "metrics-host": {"metavar": "ADDRESS", "help": "default: 127.0.0.1"},
    "metrics-port": {"type": int, "metavar": "N", "help": "where supervisor and projector answer"
                     " /metrics (default 0: nowhere)"},
    "allowed-hosts": {"metavar": "NAMES", "help": "more names to accept in a request's Host"},
    "webhook-private-addresses": {**_SWITCH, "help": "let webhooks that are made over HTTP send to"
                                  " addresses that are not public"},
    "tls-cert": {"metavar": "FILE", "help": "serve HTTPS with this certificate (PEM)"},
    "tls-key": {"metavar": "FILE", "help": "its key, if that is another file (PEM)"},
    "otel": {**_SWITCH, "help": "export spans, metrics and logs by OpenTelemetry, as the variables"
             " OTEL_... say"},
    "access-log": {**_SWITCH, "help": "log every request: who, what, and what became of it"},
    "durability": {"metavar": "LEVEL", "help": "for commands that request none: accepted (default),"
                   " fsynced, replicated or archived"},
    "app-dir": {"metavar": "DIR", "help": "where agent classes are imported from"},
    "shutdown-seconds": {"type": float, "metavar": "S", "help": "default: 25"},
    "embedded": {**_SWITCH, "help": "use the embedded server and SQLite, whatever the environment"
                 " says"},
    "single-process": {**_SWITCH, "help": "no worker processes: agents run inside this one, ten per"
                       " pool"},
    "reload": {**_SWITCH, "help": "for development: replace the workers when code in the folder of"
               " the agent classes has changed"},
    "appendfsync": {"metavar": "HOW", "help": "everysec (default) or always"},
    "auto-recover": {**_SWITCH, "help": "recover a log that Redis lost without waiting for `muster"
                     " recover`"},
    "fallback": {"metavar": "HOW", "help": "what to do if Redis is unreachable at the start: none"
                 " (default) waits for it, single-process uses a log of its own"},
    "retention-age-seconds": {"metavar": "S", "help": "remove archived events older than this from"
                              " Redis (default 86400)"},
    "retention-events": {"metavar": "N", "help": "remove archived events beyond this number per"
                         " pool from Redis (default 100000)"},
}  # fmt: skip
"""The flags of the roles, as argparse declares them. Each is a setting of the same name."""
SHARED_FLAGS = (
    "config",
    "data-dir",
    "redis-url",
    "database-url",
    "key-prefix",
    "log-level",
    "otel",
)
GATEWAY_FLAGS = (
    "host",
    "port",
    "allowed-hosts",
    "webhook-private-addresses",
    "tls-cert",
    "tls-key",
    "access-log",
    "durability",
)
WORKER_FLAGS = ("app-dir", "agents-database-url", "shutdown-seconds")
METRICS_FLAGS = ("metrics-host", "metrics-port")
RETENTION_FLAGS = ("retention-age-seconds", "retention-events")


ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "up": (
        """\
run everything on this machine

Run projector, supervisor and gateway, with a Valkey of their own unless one is given, all under one
data folder.

  muster up
  muster up --config muster.toml --port 9000
  MUSTER_REDIS_URL=redis://localhost muster up --data-dir /var/lib/muster
""",
        (*GATEWAY_FLAGS, *WORKER_FLAGS, "embedded", "single-process", "reload", "appendfsync",
         "auto-recover", "fallback", *RETENTION_FLAGS, *METRICS_FLAGS),
    ),
    "gateway": (
        """\
run only the HTTP gateway

Answer HTTP. Any number of gateways may run; they hold no state.

  MUSTER_REDIS_URL=redis://localhost muster gateway --port 8000
""",
        GATEWAY_FLAGS,
    ),
    "projector": (
        """\
run only the projector

Fold the streams into SQL. One is active, others are on standby.

  MUSTER_REDIS_URL=redis://localhost DATABASE_URL=postgresql://localhost/muster muster projector
""",
        ("auto-recover", *RETENTION_FLAGS, *METRICS_FLAGS),
    ),
    "supervisor": (
        """\
run only this host's supervisor

Start, watch and stop the workers of this host.

  MUSTER_REDIS_URL=redis://localhost muster supervisor --config muster.toml
""",
        (*WORKER_FLAGS, *METRICS_FLAGS),
    ),
}  # fmt: skip
"""The commands that run roles: the text for `add_parser`, and their flags."""


def command_line(command: str = "") -> Parser:
    """All commands and their flags; or only the one that is named, which is read sooner."""
    parser = Parser(
        prog="muster",
        description="An auto-scaling pool of long-lived agents, event-sourced over Redis Streams.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"muster {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    modules = {name: package for package, names in COMMANDS.items() for name in names}
    known = [*ROLES, *modules]
    for name in [command] if command in known else known:
        if name in modules:
            module = importlib.import_module(f"muster.cli.{modules[name]}.{name}")
            module.add(subparsers)
            continue
        text, flags = ROLES[name]
        role = add_parser(subparsers, name, text)
        runs = _run_up if name == "up" else functools.partial(_run_role, name)
        role.set_defaults(run=runs, parser=role)
        for flag in (*SHARED_FLAGS, *flags):
            role.add_argument(f"--{flag}", **FLAGS[flag])
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the named command; returns the exit code."""
    _open_streams()
    words = _usual_words(sys.argv[1:] if argv is None else argv)
    parser = command_line(words[0] if words else "")
    args, unknown = parser.parse_known_args(words)
    if unknown:
        getattr(args, "parser", parser).refuse_unknown(unknown)
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


def _usual_words(words: Sequence[str]) -> Sequence[str]:
    """`muster help [COMMAND]` and `muster version`, as other tools have them."""
    match words:
        case ["help", *command]:
            return [*command, "--help"]
        case ["version"]:
            return ["--version"]
        case _:
            return words


def _open_streams() -> None:
    """Make all text printable: closed streams go nowhere, unsupported letters become escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run_role(name: str, args: argparse.Namespace) -> int:
    settings = _settings(name, args)
    import_structlog()
    from muster.process import roles

    return roles.run(name, settings)


def _run_up(args: argparse.Namespace) -> int:
    import_structlog()
    from muster.process.forked_roles import fork_roles
    from muster.up import up

    role, forked = fork_roles()
    if role:  # and this process was forked
        return run([role])
    try:
        return up.run(_settings("up", args), forked)
    finally:
        for one in forked.values():
            one.end()


def _settings(name: str, args: argparse.Namespace) -> Settings:
    if UNSET_VARIABLE not in os.environ:  # `muster up` has said it
        print_unknown_variables(name)
    return load(vars(args), os.environ, name)
