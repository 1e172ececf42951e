"""What agents print and log becomes lines of JSON that have the agent's ids.

Print, `logging` and structlog all end here. A line is
`{"ts", "level", "message" or "event", "stream", "pool", "worker_id", …}`, and of an agent also
`agent_id, incarnation, role, project_id`. `stream` is `stdout`, `stderr` or `log`; a structlog line
has `event` and its own fields, all others `message`. `CURRENT` names the agent.
"""

import asyncio
import datetime
import weakref
from collections.abc import Mapping, MutableMapping
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from workers.output.log_files import LogFile


class Owner:
    """One agent: the ids in its output, where that goes, and its tasks."""

    __slots__ = ("ids", "output", "partial", "tasks")

    def __init__(self, ids: Mapping[str, object], output: "Output | None" = None) -> None:
        self.ids = dict(ids)
        self.output = output
        self.partial: dict[str, str] = {}
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def context(self) -> Context:
        """A context for this agent's code."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return context

    def running_tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended."""
        return [task for task in self.tasks if not task.done()]


CURRENT: ContextVar[Owner | None] = ContextVar("muster_owner", default=None)


LINE_MAX: Final = 65_536
"""Characters of one line; more is cut into several."""
RESERVED: Final = frozenset(("ts", "stream"))
"""A logged field of such a name, or of one of the ids, gets an underscore behind it."""

_ABSENT: Final = object()
_ENCODER: Final = msgspec.json.Encoder(enc_hook=repr)


class Output:
    """Where the lines of one worker and its agents go."""

    def __init__(self, log_dir: str, pool: str, worker_id: str) -> None:
        self.file = LogFile(Path(log_dir) / pool / f"{worker_id}.jsonl")
        self._worker = Owner({"pool": pool, "worker_id": worker_id}, self)

    def print(self, owner: Owner | None, stream: str, text: str) -> None:
        """Write text as it was printed. A line is written once it is complete."""
        owner = owner or self._worker
        *lines, rest = (owner.partial.pop(stream, "") + text).split("\n")
        for line in lines:
            self._text(owner, stream, line)
        while len(rest) > LINE_MAX:
            self._text(owner, stream, rest[:LINE_MAX])
            rest = rest[LINE_MAX:]
        if rest:
            owner.partial[stream] = rest

    def flush(self, owner: Owner | None = None) -> None:
        """Write what was printed without a newline at its end."""
        owner = owner or self._worker
        for stream in tuple(owner.partial):
            self._text(owner, stream, owner.partial.pop(stream, ""))

    def write(self, owner: Owner | None, level: str, fields: Mapping[str, Any]) -> None:
        """Write one line that was logged; `fields` has its `event` or `message`."""
        owner = owner or self._worker
        kept = {
            f"{key}_" if key in RESERVED or key in owner.ids else key: value
            for key, value in fields.items()
            if key != "level" and owner.ids.get(key, _ABSENT) != value
        }
        self._line(owner, {"level": level, **kept, "stream": "log"})

    def close(self) -> None:
        """Write what is left and close the file. A second call does nothing."""
        self.flush()
        self.file.close()

    def _text(self, owner: Owner, stream: str, text: str) -> None:
        level = "error" if stream == "stderr" else "info"
        for start in range(0, max(len(text), 1), LINE_MAX):
            message = text[start : start + LINE_MAX]
            self._line(owner, {"level": level, "message": message, "stream": stream})

    def _line(self, owner: Owner, fields: Mapping[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self.file.write(encode({"ts": now.replace("+00:00", "Z"), **fields, **owner.ids}) + b"\n")


def encode(line: Mapping[str, Any]) -> bytes:
    """JSON of whatever an agent gave: what has no JSON form is written as its `repr`."""
    try:
        return _ENCODER.encode(line)
    except Exception:  # noqa: BLE001  a user's object may fail in any way
        return _ENCODER.encode({str(key): _plain(value) for key, value in line.items()})


def _plain(value: object) -> str | int | float | None:
    if value is None or isinstance(value, (bool, int, float)):
        return value if not isinstance(value, int) or value.bit_length() < 64 else str(value)
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001  as above
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def route(default: Output | None, owner: Owner | None = None) -> "structlog.typing.Processor":
    """A structlog processor that writes an agent's lines to its output and ends their way there.

    Lines of no agent go to `default`, and on through the other processors where there is none.
    """

    def processor(
        logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        line_owner = owner or CURRENT.get()
        output = (line_owner and line_owner.output) or default
        if output is None:
            return event
        event = structlog.contextvars.merge_contextvars(logger, method, event)
        fields = structlog.processors.format_exc_info(logger, method, {"event": "", **event})
        level = "warning" if method == "warn" else "error" if method == "exception" else method
        output.write(line_owner, level, fields)
        raise structlog.DropEvent

    return processor


def logger_of(owner: Owner) -> Any:
    """The logger of an agent's context: its lines have the ids even from a thread of its own."""
    if owner.output is None:
        return structlog.get_logger("muster.agent").bind(**owner.ids)
    return structlog.wrap_logger(
        None,
        processors=[route(None, owner)],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=True,
    )
