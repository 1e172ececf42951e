"""Capturing what is printed and logged: below whatever agents configure.

In a process of its own a worker captures everything: what no agent wrote goes to its file too.
Where workers share a process with other parts, only what agents write is captured, the rest goes
where it went before. Captures may overlap: each worker starts one and stops it.

A record of `logging` is captured where its loggers hand it over, so that it does not matter which
handlers there are. A handler that writes to standard output or error only decides: by its level and
its filters. Whatever else handlers do with records they do as well. A line of structlog is captured
before it is rendered.
"""

import logging
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from workers.output import streams
from workers.output.descriptors import STREAMS, StandardPipes
from workers.output.lines import CURRENT, Output, Owner, write_event
from workers.output.own_configuration import Patches, separate, separate_configuration

log = structlog.get_logger("muster.output")

_RECORD_FIELDS: Final = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "_captured")
)
_RENDERERS: Final = (
    structlog.dev.ConsoleRenderer,
    structlog.processors.JSONRenderer,
    structlog.processors.KeyValueRenderer,
    structlog.processors.LogfmtRenderer,
)
_LAST_STEPS: Final = (
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    structlog.stdlib.render_to_log_kwargs,
    structlog.stdlib.render_to_log_args_and_kwargs,
)
_UNCONFIGURED: Final = structlog._config._Configuration.default_processors


class Capture:
    """Replaces what prints and logs on `start`, restores it on `stop`."""

    users = 0
    current: "Capture | None" = None

    def __init__(self) -> None:
        self.default: Output | None = None
        """Gets what no agent wrote."""
        self.patches, self.levels = Patches(), Patches()
        self.pipes: StandardPipes | None = None
        self.call_handlers: Any = None
        self.handle: Any = None
        self.process_event: Any = None

    @classmethod
    def prepare(cls) -> "Capture":
        """Replace what is replaced, without capturing anything: workers forked then share it."""
        if cls.current is None:
            cls.current = cls()
            cls.current._install()
        return cls.current

    @classmethod
    def start(
        cls, output: Output, pipes: StandardPipes | None = None, *, shared: bool = False
    ) -> None:
        """Capture from now on; `output` gets what no agent wrote, too. `pipes`: what to read.

        `shared`: the process is not only this worker's. Then only what agents write is captured.
        """
        cls.users += 1
        current = cls.prepare()
        if not shared:
            current._capture_all(output)
        if pipes is not None:
            current.pipes = pipes
            for number, end in pipes.read_ends.items():
                output.pump.read(end, output.printed(output.printer, STREAMS[number]).add_bytes)
        if shared:
            output.own = separate_configuration(output.levels)

    @classmethod
    def stop(cls) -> None:
        """Undo one `start`; the last one restores everything."""
        cls.users = max(cls.users - 1, 0)
        if cls.users == 0 and cls.current is not None:
            cls.current.levels.restore()
            cls.current.patches.restore()
            logging.root.manager._clear_cache()  # type: ignore[attr-defined]
            streams.restore()
            cls.current = None

    def _install(self) -> None:
        streams.install()
        separate(self.patches)
        self.call_handlers = self.patches.set(logging.Logger, "callHandlers", _call_handlers)
        self.handle = self.patches.set(logging.Handler, "handle", _handle)
        bound_logger = structlog.BoundLoggerBase
        self.process_event = self.patches.set(bound_logger, "_process_event", _process_event)

    def _capture_all(self, output: Output) -> None:
        self.default = output
        for target in streams.TARGETS.values():
            target.base.output = output
        for logger, level in output.levels.of_loggers(shared=False).items():
            self.levels.set(logger, "level", level)
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]

    @classmethod
    def check(cls) -> None:
        """Replace again what an agent has replaced, whoever that was."""
        if (current := cls.current) is not None:
            if current.default is not None:
                current.default.file.reopen_if_moved()
            for where in (current.patches, streams, current.pipes):
                if where is not None and (names := list(where.put_back())):
                    log.warning("output.restored", what=", ".join(names))


def destination() -> tuple[Owner, Output] | None:
    """Whose the present output is and where it goes; None: where it would without us."""
    owner = CURRENT.get()
    if owner is None and Capture.current is not None and Capture.current.default is not None:
        owner = Capture.current.default.worker
    return (owner, owner.output) if owner is not None and owner.output is not None else None


# ---- logging ----------------------------------------------------------------------------------


def _call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
    """Replaces `Logger.callHandlers`."""
    capture = Capture.current
    assert capture is not None
    if (found := destination()) is None:
        capture.call_handlers(self, record)
        return
    handlers = _handlers(self, own=bool(found[0].own))
    if not any(map(_is_console, handlers)):
        _capture(record, *found)
    if handlers:
        capture.call_handlers(self, record)


def _handle(self: logging.Handler, record: logging.LogRecord) -> Any:
    """Replaces `Handler.handle`."""
    capture = Capture.current
    assert capture is not None
    if not _is_console(self) or (found := destination()) is None:
        return capture.handle(self, record)
    passed: Any = self.filter(record)
    if passed and not vars(record).get("_captured"):
        record._captured = True
        _capture(passed if isinstance(passed, logging.LogRecord) else record, *found)
    return passed


def _handlers(logger: logging.Logger | None, *, own: bool) -> list[logging.Handler]:
    """Those of a logger and above it. Without values of an `own` the attributes cost more."""
    handlers: list[logging.Handler] = []
    while logger is not None:
        shared = vars(logger)
        handlers += logger.handlers if own else shared["handlers"]
        logger = logger.parent if (logger.propagate if own else shared["propagate"]) else None
    return handlers


def _is_console(handler: logging.Handler) -> bool:
    """Whether it writes to the standard output or error; of Rich's, too."""
    if isinstance(handler, logging.StreamHandler):
        return streams.is_standard(getattr(handler, "stream", None))
    return streams.is_standard(getattr(getattr(handler, "console", None), "file", None))


def _capture(record: logging.LogRecord, owner: Owner, output: Output) -> None:
    fields: dict[str, Any] = {"message": _message(record), "logger": record.name}
    if len(vars(record)) > len(_RECORD_FIELDS) - 4:
        fields |= {key: vars(record)[key] for key in vars(record).keys() - _RECORD_FIELDS}
    if record.exc_info is not None and record.exc_info[0] is not None:
        fields["exception"] = _exception(record)
    if record.stack_info:
        fields["stack"] = record.stack_info
    output.write(owner, record.levelname.lower(), fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  arguments that do not fit the message, or worse
        try:
            return f"{record.msg} {record.args} ({type(error).__name__}: {error})"
        except Exception:  # noqa: BLE001  of their own objects
            return f"a message that cannot be made ({type(error).__name__})"


def _exception(record: logging.LogRecord) -> str:
    try:
        return logging.Formatter().formatException(record.exc_info)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001  formatting calls the user's code
        return f"{record.exc_info[0]} ({type(error).__name__} while it was formatted)"  # type: ignore[index]


# ---- structlog --------------------------------------------------------------------------------


def _process_event(self: Any, method: str, event: str | None, event_kw: dict[str, Any]) -> Any:
    """Replaces `BoundLoggerBase._process_event`: writes the line instead of rendering it."""
    capture = Capture.current
    assert capture is not None
    if (found := destination()) is None:
        return capture.process_event(self, method, event, event_kw)
    fields: MutableMapping[str, Any] = {**self._context, **event_kw}
    if event is not None:
        fields["event"] = event
    write_event(*found, method, _processed(self, method, fields))
    raise structlog.DropEvent


def _processed(
    bound: Any, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The fields as the processors leave them, up to the one that renders them."""
    if bound._processors is _UNCONFIGURED:
        return structlog.contextvars.merge_contextvars(bound._logger, method, fields)
    for processor in bound._processors:
        if isinstance(processor, _RENDERERS) or processor in _LAST_STEPS:
            break
        result = processor(bound._logger, method, dict(fields))
        if not isinstance(result, MutableMapping):
            break
        fields = result
    return fields
