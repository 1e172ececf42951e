"""show what agents print and log

Shows the logs of the agents on this host, merged.

  muster logs                                       the last 100 lines of all agents here
  muster logs 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e  those of one agent
  muster logs -f --pool developer_pool              a pool's, and new lines as they come
  muster logs --since 10m -n all --json             all of the last ten minutes, for a program
"""

import argparse
import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from eventstore.keys import POOL_NAME
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare
from muster.cli.arguments.values import agent_id, time_ms
from muster.cli.events.lines import printer
from muster.settings.settings import abbreviate
from muster.terminal import render
from muster.terminal.log_reader import Line, LineFilter, LogFile, merged

LAST = 100
POLL_SECONDS = 0.25
STANDARD_FIELDS = {
    "ts", "level", "event", "message", "agent_id", "incarnation", "pool", "role", "project_id",
    "worker_id", "stream", "exception",
}  # fmt: skip
STYLES = {
    "debug": "dim", "warning": "yellow", "error": "red", "exception": "red", "critical": "bold red"
}  # fmt: skip


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "logs", run, __doc__)
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="this agent only")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for new lines")
    parser.add_argument("--pool", default="", metavar="NAME", help="this pool only")
    parser.add_argument("--worker", default="", metavar="ID", help="this worker only")
    parser.add_argument("-n", default=None, metavar="N", dest="count", help="show the last N"
                        f" lines, or `all` (default {LAST}; all with --since)")  # fmt: skip
    parser.add_argument("--since", metavar="TIME", help="since then: 10m (ago), 14:03, a date")
    parser.add_argument("--log-dir", metavar="DIR", help="the folder of the logs (MUSTER_LOG_DIR)")
    targets.add_flags(parser, targets.DATA_DIR_FLAG)


def run(args: argparse.Namespace) -> int:
    directory = targets.log_directory(args)
    line_filter = LineFilter(
        agent=agent_id(args.agent) if args.agent else "",
        pool=_name(args.pool, "--pool"),
        worker=_name(args.worker, "--worker"),
        since_ms=time_ms(args.since, "--since") if args.since else 0.0,
    )
    count = _count(args.count, LAST if args.since is None else None)
    if not directory.is_dir() and not args.follow:
        raise Refused(f"there are no logs in {directory} (--log-dir, --data-dir)")
    # The files of all workers are open at once while they are merged.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    print_line = printer(line_cells, lambda line: line.document, as_json=args.json)
    with closing(JoinedLog(directory, line_filter)) as log:
        lines = log.added()
        for line in lines if count is None else deque(lines, maxlen=count):
            print_line(line)
        while args.follow:
            for line in log.added():
                print_line(line)
            time.sleep(POLL_SECONDS)
    return 0


class JoinedLog:
    """All log files of a folder that may contain matching lines, also those of new workers."""

    def __init__(self, directory: Path, line_filter: LineFilter) -> None:
        self._directory, self._filter = directory, line_filter
        self._files: dict[Path, LogFile] = {}

    def added(self) -> Iterator[Line]:
        """The lines that were added since the last call."""
        for path in self._filter.files(self._directory):
            self._files.setdefault(path, LogFile(path))
        return merged(list(self._files.values()), self._filter.matches)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _name(text: str, flag: str) -> str:
    """The name of a pool or worker, checked because it becomes part of a path."""
    if text and not POOL_NAME.fullmatch(text):
        raise BadInput(
            f"{flag}: {abbreviate(text)} is not a name of lower-case letters, digits, _ and -"
        )
    return text


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
    origin = line.agent_id or f"worker {render.short_id(line.worker_id)}"
    return [
        render.Cell(f"{render.timestamp(line.ts_ms)} ", "dim"),
        render.Cell(f"{line.level or '-':<8} ", style or "cyan"),
        render.Cell(f"{line.pool} {render.short_id(origin) if short else origin}  ", "dim"),
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
