"""Replacing `sys.stdout`, `sys.stderr`, the handlers of `logging` and the output of structlog.

In a process of its own a worker captures everything: what no agent wrote goes to its file too.
Where workers share a process with other parts, only what agents write is captured, the rest goes
where it went before. Captures may overlap: each worker starts one and stops it.
"""

import io
import logging
import sys
from typing import Any, TextIO

import structlog

from workers.output.lines import CURRENT, Output, route


class AgentStream(io.TextIOBase):
    """Replaces `sys.stdout` or `sys.stderr`."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, original: TextIO, default: Output | None) -> None:
        self.name, self.original, self.default = name, original, default

    @property
    def buffer(self) -> "AgentBytes":
        return AgentBytes(self)

    def write(self, text: str) -> int:
        owner = CURRENT.get()
        output = (owner and owner.output) or self.default
        if output is None:
            return self.original.write(text)
        output.print(owner, self.name, text)
        return len(text)

    def flush(self) -> None:
        self.original.flush()

    def fileno(self) -> int:
        return self.original.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class AgentBytes(io.RawIOBase):
    """`sys.stdout.buffer`, for code that prints bytes."""

    def __init__(self, stream: AgentStream) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)

    def writable(self) -> bool:
        return True


class AgentLogHandler(logging.Handler):
    """Captures the records of `logging`."""

    def __init__(self, default: Output | None) -> None:
        super().__init__()
        self.default = default

    def emit(self, record: logging.LogRecord) -> None:
        owner = CURRENT.get()
        output = (owner and owner.output) or self.default
        if output is None:
            return
        try:
            fields = {"message": record.getMessage(), "logger": record.name}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
        except Exception:  # noqa: BLE001  arguments that do not fit the message, or worse
            self.handleError(record)
            return
        output.write(owner, record.levelname.lower(), fields)


class Capture:
    """Replaces them on `start`, restores them on `stop`."""

    users = 0
    current: "Capture | None" = None

    def __init__(self, default: Output | None) -> None:
        self._handler = AgentLogHandler(default)
        self._streams = [
            AgentStream("stdout", sys.stdout, default),
            AgentStream("stderr", sys.stderr, default),
        ]
        self._captures_all = default is not None
        self._route = route(default)
        self._previous_root: tuple[list[logging.Handler], int] = ([], logging.WARNING)

    @classmethod
    def start(cls, default: Output | None) -> None:
        """Capture from now on; `default` gets what no agent wrote (None: that is not captured)."""
        cls.users += 1
        if cls.current is None:
            cls.current = cls(default)
            cls.current._install()

    @classmethod
    def stop(cls) -> None:
        """Undo one `start`; the last one restores everything."""
        cls.users = max(cls.users - 1, 0)
        if cls.users == 0 and cls.current is not None:
            cls.current._remove()
            cls.current = None

    def _install(self) -> None:
        sys.stdout, sys.stderr = self._streams
        root = logging.getLogger()
        self._previous_root = (list(root.handlers), root.level)
        if self._captures_all:
            root.handlers[:] = []
            self._redirect_handlers()
        if root.level == logging.WARNING and not root.handlers:
            root.setLevel(logging.INFO)
        root.addHandler(self._handler)
        processors = structlog.get_config()["processors"]
        structlog.configure(processors=[self._route, *processors])

    def _remove(self) -> None:
        for stream in self._streams:
            if getattr(sys, stream.name) is stream:
                setattr(sys, stream.name, stream.original)
        root = logging.getLogger()
        root.handlers[:] = self._previous_root[0]
        root.setLevel(self._previous_root[1])
        processors = structlog.get_config()["processors"]
        structlog.configure(processors=[p for p in processors if p is not self._route])

    def _redirect_handlers(self) -> None:
        """Handlers made when the role was imported refer to the streams of that time."""
        for logger in logging.root.manager.loggerDict.values():
            for handler in getattr(logger, "handlers", ()):
                for stream in self._streams if isinstance(handler, logging.StreamHandler) else ():
                    if handler.stream is stream.original:
                        handler.setStream(stream)
