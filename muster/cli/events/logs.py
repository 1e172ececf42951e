"""show what agents print and log

Shows the logs of the agents on this host, merged.

  muster logs                               the last 100 lines of all agents here
  muster logs 1a2c3d                        those of one agent, or of one worker
  muster logs -f developer_pool             a pool's, and new lines as they come
  muster logs --since 10m -n all --json     all of the last ten minutes, for a program
"""

import argparse
import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, ServiceUnreachable, Subparsers, declare
from muster.cli.arguments.output import is_json
from muster.cli.arguments.values import time_ms
from muster.cli.client import names
from muster.cli.client.api_client import GatewayClient
from muster.cli.events.lines import printer
from muster.settings.settings import abbreviate
from muster.terminal import render
from muster.terminal.log_reader import Line, LogFile, merged

LAST = 100
KINDS = ("agent", "worker", "pool")
POLL_SECONDS = 0.25
FILES_MAX = 10_240
"""What macOS allows at most, where it says that there is no limit."""
STANDARD_FIELDS = {
    "ts", "level", "event", "message", "agent_id", "incarnation", "pool", "role", "project_id",
    "worker_id", "stream", "exception",
}  # fmt: skip
STYLES = {
    "debug": "dim", "warning": "yellow", "error": "red", "exception": "red", "critical": "bold red"
}  # fmt: skip


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "logs", run, __doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="this agent, worker or pool only:"
                        " its name or id, or six or more characters of its id")  # fmt: skip
    parser.add_argument("-f", "--follow", action="store_true", help="wait for new lines")
    parser.add_argument("--pool", default="", metavar="NAME", help="this pool only")
    parser.add_argument("--worker", default="", metavar="ID", help="this worker only")
    parser.add_argument("-n", default=None, metavar="N", dest="count", help="show the last N"
                        f" lines, or `all` (default {LAST}; all with --since)")  # fmt: skip
    parser.add_argument("--since", metavar="TIME", help="since then: 10m (ago), 14:03, a date")
    parser.add_argument("--log-dir", metavar="DIR", help="the folder of the logs (MUSTER_LOG_DIR)")
    targets.add_flags(parser, targets.SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    directory = targets.log_directory(args)
    since_ms = time_ms(args.since, "--since") if args.since else 0.0
    count = _count(args.count, LAST if args.since is None else None)
    if not directory.is_dir() and not args.follow:
        raise Refused(f"there are no logs in {directory} (--log-dir, --data-dir)")
    wanted = _wanted(args, directory)
    _raise_file_limit()
    print_line = printer(line_cells, lambda line: line.document, as_json=is_json(args))
    with closing(JoinedLog(directory, since_ms, **wanted)) as log:
        lines = log.added()
        for line in lines if count is None else deque(lines, maxlen=count):
            print_line(line)
        while args.follow:
            for line in log.added():
                print_line(line)
            time.sleep(POLL_SECONDS)
    return 0


def _raise_file_limit() -> None:
    """The files of all workers are open at once while they are merged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class JoinedLog:
    """Lines of all log files of a folder, also those of new workers: from a time on, and, where
    they are named, only of this agent, pool or worker."""

    def __init__(
        self, directory: Path, since_ms: float, agent: str = "", pool: str = "", worker: str = ""
    ) -> None:
        self._directory, self._since_ms, self._agent = directory, since_ms, agent
        self._names = f"{pool or '*'}/{worker or '*'}.jsonl"
        self._files: dict[Path, LogFile] = {}

    def added(self) -> Iterator[Line]:
        """The lines that were added since the last call. Raises `Refused`."""
        for path in sorted(self._directory.glob(self._names)):
            self._files.setdefault(path, LogFile(path))
        try:
            yield from merged(list(self._files.values()), self._matches)
        except OSError as error:
            raise Refused(f"{error.filename}: {error.strerror}") from error

    def _matches(self, line: Line) -> bool:
        return line.ts_ms >= self._since_ms and self._agent in ("", line.agent_id)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _wanted(args: argparse.Namespace, directory: Path) -> dict[str, str]:
    """The agent, worker and pool that are named. Raises `Refused`, `BadInput`."""
    wanted: dict[str, str] = {}
    named = (args.name, KINDS), (args.worker, ("worker",)), (args.pool, ("pool",))
    for text, kinds in named:
        if text:
            kind, name = _named(args, directory, text, kinds)
            if wanted.setdefault(kind, name) != name:
                raise BadInput(f"{kind} {wanted[kind]} and {kind} {name}: name one of them")
    return wanted


def _named(
    args: argparse.Namespace, directory: Path, text: str, kinds: tuple[str, ...]
) -> tuple[str, str]:
    """What has this name: asked of the gateway of these logs, if it answers, and of the logs."""
    unknown: Refused | None = None
    with suppress(ServiceUnreachable, names.NotLookedUp):
        try:
            if targets.is_service_named(args):
                found = names.resolve(GatewayClient(args), text, *kinds)
                return found.kind, found.name
        except Refused as error:
            unknown = error
    try:
        found = names.resolve_locally(_in_logs(directory, kinds), text, *kinds)
    except Refused as error:
        raise (unknown or error) from None
    return found.kind, found.name


def _in_logs(directory: Path, kinds: tuple[str, ...]) -> Iterator[names.Match]:
    """What has written to the logs."""
    for path in sorted(directory.glob("*/*.jsonl")):
        yield names.Match("pool", path.parent.name)
        yield names.Match("worker", path.stem, path.parent.name)
        if "agent" in kinds:
            with closing(LogFile(path)) as log:
                agents = dict.fromkeys(line.agent_id for line in log.lines())
            yield from (names.Match("agent", one, path.parent.name) for one in agents if one)


def _count(text: str | None, default: int | None) -> int | None:
    if text is None:
        return default
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 9:
        raise BadInput(f"-n: {abbreviate(text)} is not a number of lines, or `all`")
    return int(text)


def line_cells(line: Line, short: bool) -> list[render.Cell]:
    """Time, level, origin, message; `short`: with short ids."""
    style = STYLES.get(line.level.lower(), "")
    shorten = render.short_id if short else str
    origin = shorten(line.agent_id) if line.agent_id else f"worker {shorten(line.worker_id)}"
    return [
        render.Cell(f"{render.timestamp(line.ts_ms)} ", "dim"),
        render.Cell(f"{line.level or '-':<8} ", style or "cyan"),
        render.Cell(f"{line.pool} {origin}  ", "dim"),
        render.Cell(_message(line), style),
    ]


def _message(line: Line) -> str:
    """The message and its extra fields; further lines are indented."""
    extras = [
        f"{name}={value if isinstance(value, str) else render.json_line(value)}"
        for name, value in line.document.items()
        if name not in STANDARD_FIELDS and value not in (None, "")
    ]
    if (message := line.document.get("message")) and message != line.text:
        extras.insert(0, str(message))
    text = "  ".join([line.text, *extras])
    if exception := line.document.get("exception"):
        text = f"{text}\n{exception}"
    return render.clean(text.replace("\r\n", "\n")).rstrip().replace("\n", "\n    ")
