"""run one agent in the foreground

Runs one agent of a role in this process, without Redis, lease or other agents: it prints here,
and `breakpoint()` works. Ctrl-C stops it in good order. Exit code 0: it ended by itself, or was
idle for too long; 1: its code failed; 130: it was stopped with Ctrl-C.

  muster run developer --input '{"task": 1}'
  muster run developer --input @task.json --label team=red
  muster run counter --state counter.state        goes on where it was stopped
  muster run acme.developer:Developer             a class that no file declares
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from eventstore.atomic_file import write_bytes
from eventstore.names import unknown_name
from muster.cli.arguments.command import (
    INTERRUPTED,
    BadInput,
    Refused,
    Subparsers,
    declare,
    print_note,
    print_unknown_variables,
)
from muster.cli.arguments.values import json_object, pairs, seconds
from muster.settings.loading import load
from muster.settings.settings import Settings

if TYPE_CHECKING:
    from workers.standalone.standalone import Standalone, StandaloneOptions

FAILED = 1
IDS = ("agent_id", "incarnation", "pool", "role", "project_id", "worker_id")
STOPPING = "\nstopping in good order (Ctrl-C again: at once)"
CANCELLING = "\ncancelled (Ctrl-C again: ends the process)"


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "run", run, __doc__)
    option = parser.add_argument
    option("role", metavar="ROLE", help="a role of the configuration file, or package.module:Class")
    option("--input", metavar="JSON", help="a JSON object, or @FILE, or @- for standard input: the"
           " agent's `context.input`")  # fmt: skip
    option("--label", action="append", default=[], metavar="K=V", help="a label (again for more)")
    option("--project", default="demo", metavar="ID", help="its project (default demo)")
    option("--heartbeat-interval", metavar="S", help="seconds between checks (default 30)")
    option("--max-idle-time", metavar="S", help="end it after S idle seconds (default: never)")
    option("--state", metavar="FILE", help="what the agent saves is written there, and given to it"
           " at the next start; it is stopped as if it were to go on elsewhere")  # fmt: skip
    option("--config", metavar="FILE", help="default: ./muster.toml, if any")
    option("--app-dir", metavar="DIR", help="where agent classes are imported from (default: the"
           " folder of the configuration file, else this one)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from workers.api import role_loader
    from workers.standalone.standalone import StandaloneOptions

    print_unknown_variables("run")
    settings = load({"config": args.config, "app_dir": args.app_dir}, os.environ)
    path = args.role if ":" in args.role else settings.roles.get(args.role)
    if path is None:
        raise Refused(unknown_name("role", args.role, settings.roles))
    options = StandaloneOptions(
        role_type=args.role.partition(":")[2].lower() or args.role,
        project_id=args.project,
        input=json_object(args.input, "--input") if args.input else {},
        labels=pairs(args.label, "--label"),
        heartbeat_interval=seconds(args.heartbeat_interval or "30", "--heartbeat-interval"),
        max_idle_time=seconds(args.max_idle_time, "--max-idle-time")
        if args.max_idle_time
        else None,
        engine_url=settings.engine_url,
        state=_read(args.state) if args.state else None,
    )
    _log_here(settings, path.partition(".")[0].partition(":")[0])
    loaded = role_loader.load(path, str(settings.app_dir or Path.cwd()))
    return asyncio.run(_run(loaded.role, options, args.state))


def _read(file: str) -> bytes | None:
    """Raises `BadInput`."""
    if not Path(file).absolute().parent.is_dir():
        raise BadInput(f"--state {file}: expected a file in a folder that exists")
    try:
        return Path(file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"--state {file}: expected a file that can be read: {error}") from error


async def _run(role: type, options: "StandaloneOptions", state_file: str | None) -> int:
    from workers.standalone.standalone import ENDED, Standalone

    def write(state: bytes) -> None:
        if state_file:
            write_bytes(Path(state_file), state)

    agent = Standalone(role, options, on_saved=write)
    with _stopped_by_signals(agent, release=state_file is not None) as received:
        await agent.run()
    sys.stdout.flush()
    error = agent.error
    if error is not None:
        print_note(error.traceback.rstrip() or f"{error.type}: {error.message}")
    print_note(f"muster run: {agent.outcome}")
    if agent.outcome not in ENDED or error is not None:
        return FAILED
    return INTERRUPTED if signal.SIGINT in received else 0


@contextmanager
def _stopped_by_signals(agent: "Standalone", *, release: bool) -> Iterator[list[int]]:
    """The first signal stops it in good order, the second at once, the third ends this process.

    `release`: the first saves its state.

    The handlers run whatever the event loop does, which may be blocked. Yields what was received.
    """
    loop, received = asyncio.get_running_loop(), list[int]()

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 2:
            os._exit(INTERRUPTED)
        now = len(received) == 2
        os.write(2, f"{CANCELLING if now else STOPPING}\n".encode())
        if release and not now:
            loop.call_soon_threadsafe(agent.request_release)
        else:
            loop.call_soon_threadsafe(lambda: agent.request_stop(now=now))

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _log_here(settings: Settings, package: str) -> None:
    """Logging goes to standard error: of libraries warnings, of the role's package all."""
    import structlog

    form = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=form, datefmt="%H:%M:%S")
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.getLogger(package).setLevel(level)
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _without_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=colours),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _without_ids(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """There is one agent: its ids would only fill the line."""
    return {name: value for name, value in event.items() if name not in IDS and value != ""}
