"""What agents print and log becomes lines of JSON that have the agent's ids.

Print, `logging` and structlog all end here. A line is
`{"ts", "level", "message" or "event", "stream", "pool", "worker_id", …}`, and of an agent also
`agent_id, incarnation, role, project_id`. `stream` is `stdout`, `stderr` or `log`; a structlog line
has `event` and its own fields, all others `message`. A printed line that goes on in the next one
has `partial`. `CURRENT` names the agent.
"""

import asyncio
import datetime
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec import Struct

from workers.output.encoding import LOGGED_MAX, encode, shortened
from workers.output.levels import NUMBERS, Levels
from workers.output.limits import Limit, OutputLimits
from workers.output.log_files import LogFile
from workers.output.printed import Printed
from workers.output.pump import Pump, is_pipe


class Owner(Struct, weakref=True, eq=False):
    """One incarnation: its ids and output, what it configured, and what it has under way."""

    ids: Mapping[str, object]
    output: "Output | None" = None
    limited: bool = True
    own: dict[Any, Any] = {}
    """Its own values of process-wide configuration; see `own_configuration`."""
    printed: dict[str, Printed] = {}
    descriptors: dict[str, tuple[int, int]] = {}
    """Its pipes: what the processes that it starts write to. Descriptor and inode."""
    limit: Limit | None = None
    """Made when it first writes."""
    tasks: set[asyncio.Task[Any]] = set()
    calls: dict[Future[Any], Any] = {}
    """Calls in pools of threads; `workers.runtime` ends them, and the tasks."""
    threads: set[threading.Thread] = set()
    """Others that it started."""
    executor: Executor | None = None
    """Its default one, made on first use, with `threads_max` threads."""
    threads_max: int = 8
    exception_handler: Callable[..., object] | None = None
    """Its own, for what fails in its tasks and callbacks."""

    def __post_init__(self) -> None:
        if self.output is not None:
            self.own = dict(self.output.own)

    def running_tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended."""
        return [task for task in self.tasks if not task.done()]

    def context(self) -> Context:
        """A context for this agent's code."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return context


CURRENT: ContextVar[Owner | None] = ContextVar("muster_owner", default=None)


RESERVED: Final = frozenset(("ts", "stream", "partial"))
"""A logged field of such a name, or of one of the ids, gets an underscore behind it."""

_ABSENT: Final = object()


class Output:
    """Where the lines of one worker and its agents go."""

    def __init__(
        self,
        log_dir: str,
        pool: str,
        worker_id: str,
        *,
        limits: OutputLimits | None = None,
        levels: Levels | None = None,
    ) -> None:
        self.file = LogFile(Path(log_dir) / pool / f"{worker_id}.jsonl")
        self.levels = levels or Levels()
        self.level = self.levels.number
        self.own: dict[Any, Any] = {}
        """What each agent has of its own from the start; see `Owner.own`."""
        self.pump = Pump()
        self._limits = limits or OutputLimits()
        self._locked: weakref.WeakSet[Printed | Limit] = weakref.WeakSet()
        ids = {"pool": pool, "worker_id": worker_id}
        self.worker = Owner(ids, self, limited=False)
        """The owner of what no agent logged."""
        self.printer = Owner(ids, self)
        """The owner of what no agent printed."""

    def _limit_of(self, owner: Owner) -> Limit | None:
        if owner.limit is None and owner.limited and self._limits.lines_per_second:
            owner.limit = Limit(self._limits)
            self._locked.add(owner.limit)
        return owner.limit

    def descriptor(self, owner: Owner, stream: str) -> int:
        """What processes of an owner may have as standard output or error; closed at its end."""
        end = owner.descriptors.get(stream)
        if end is None or not is_pipe(end):
            read_end, number = os.pipe()
            end = owner.descriptors[stream] = number, os.fstat(number).st_ino
            printed = self.printed(owner, stream, f"{stream} of children")
            self.pump.read(read_end, printed.add_bytes)
        return end[0]

    def flush(self, owner: Owner | None = None) -> None:
        """Write what was printed without a newline at its end; all of an agent that ended."""
        owner = owner or self.printer
        while owner.descriptors:
            _, end = owner.descriptors.popitem()
            if is_pipe(end):
                os.close(end[0])
        for printed in tuple(owner.printed.values()):
            printed.flush()
        self.report_dropped(owner)

    def write(self, owner: Owner | None, level: str, fields: Mapping[str, Any]) -> None:
        """Write one line that was logged; `fields` has its `event` or `message`."""
        owner = owner or self.worker
        ids = owner.ids
        kept = {
            f"{key}_" if key in RESERVED or key in ids else key: value
            for key, value in fields.items()
            if key != "level" and ids.get(key, _ABSENT) != value
        }
        self._line(owner, {"level": level, **kept, "stream": "log"})

    def close(self) -> None:
        """Write what is left and close the file. A second call does nothing."""
        self.pump.close()
        self.flush()
        self.file.close()

    def reset_after_fork(self) -> None:
        """In a forked child: it writes to the same file, but has no thread, and nothing to finish.

        What another thread held locked at the fork would remain so.
        """
        self.file.reset_after_fork()
        self.pump.forget()
        for locked in self._locked:
            locked.reset_after_fork()

    def printed(self, owner: Owner, stream: str, name: str = "") -> Printed:
        """What writes as lines what an owner prints to a stream.

        `name`: of a part of the stream whose lines are to be apart.
        """
        printed = owner.printed.get(name or stream)
        if printed is None:
            level = "error" if stream == "stderr" else "info"

            def write(text: str, partial: bool) -> None:
                fields = {"level": level, "message": text, "stream": stream}
                self._line(owner, {**fields, "partial": True} if partial else fields, len(text))

            printed = owner.printed.setdefault(
                name or stream, Printed(write, self.pump, self._limit_of(owner))
            )
            self._locked.add(printed)
        return printed

    def _line(self, owner: Owner, fields: Mapping[str, Any], size: int = 0) -> None:
        """`size`: about how many bytes it has, if that is known."""
        limit = self._limit_of(owner)
        urgent = fields["stream"] == "log" and NUMBERS.get(fields["level"], 0) >= NUMBERS["warning"]
        if limit is not None and limit.closed and not urgent and not limit.admit(size):
            return
        stamp = _now()
        line = encode({"ts": stamp, **fields, **owner.ids})
        if len(line) > LOGGED_MAX and fields["stream"] == "log":
            line = encode({"ts": stamp, **shortened(fields), **owner.ids})
        if limit is not None:
            if not limit.admit(len(line), urgent=urgent):
                return
            if limit.dropped_lines and not limit.closed:
                self.report_dropped(owner)
            if limit.closed:
                self.pump.watch(partial(self._is_limited, owner, limit))
        if self.file.write(line + b"\n") and self.file.dropped:
            lost, self.file.dropped = self.file.dropped, 0
            log = logger_of(self.worker)
            log.error("output.lost", lines=lost)

    def _is_limited(self, owner: Owner, limit: Limit) -> bool:
        """If not any more, report what was dropped: perhaps no line comes that would."""
        if reopened := limit.reopen():
            self.report_dropped(owner)
        return not reopened

    def report_dropped(self, owner: Owner) -> None:
        """Write how much of an owner's output was dropped since this was written last."""
        if owner.limit is not None and (dropped := owner.limit.take_dropped())[0]:
            reporter = Owner(owner.ids, self, limited=False)
            log = logger_of(reporter)
            log.warning("output.limited", dropped_lines=dropped[0], dropped_bytes=dropped[1])


_second: tuple[int, str] = (0, "")


def _now() -> str:
    """As `2026-02-09T10:11:12.131Z`. The text of a second is made once."""
    global _second  # noqa: PLW0603  a cache
    second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    known, text = _second
    if known != second:
        text = datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        _second = second, text
    return f"{text}{milliseconds:03}Z"


def write_event(
    owner: Owner, output: Output, method: str, fields: MutableMapping[str, Any]
) -> None:
    """Write a line of structlog, if its level is high enough."""
    if NUMBERS.get(method, 0) < output.level:
        return
    fields = structlog.processors.format_exc_info(None, method, {"event": "", **fields})
    level = "warning" if method == "warn" else "error" if method == "exception" else method
    output.write(owner, level, fields)


def logger_of(owner: Owner) -> Any:
    """The logger of an agent's context: its lines have the ids even from a thread of its own."""
    output = owner.output
    if output is None:
        return structlog.get_logger("muster.agent").bind(**owner.ids)

    def write(logger: Any, method: str, fields: MutableMapping[str, Any]) -> Any:
        merged = structlog.contextvars.merge_contextvars(logger, method, fields)
        write_event(owner, output, method, merged)
        raise structlog.DropEvent

    return structlog.wrap_logger(
        None,
        processors=[write],
        wrapper_class=structlog.make_filtering_bound_logger(output.level),
        cache_logger_on_first_use=True,
    )
