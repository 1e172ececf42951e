"""How Muster's own processes log: structlog to a terminal, as JSON lines to a file or a pipe.

Records of libraries (through `logging`) are rendered the same way: a role's log is one stream.
"""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from eventstore.errors import ConfigurationError

FILE_BYTES = 10_000_000
FILES = 3
_WITHOUT_VALUES = structlog.dev.RichTracebackFormatter(show_locals=False)
"""The values in a traceback include passwords and tokens."""


def configure(role: str, *, level: str = "info", file: Path | None = None) -> None:
    """Set up this process' logging. `file`: JSON lines there, rotated; else standard error.

    Raises `ConfigurationError` where the file cannot be written.
    """
    handler: logging.Handler = logging.StreamHandler()
    if file is not None:
        make_folder(file.parent)
        handler = _file_handler(file)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _name_the_role(role),
        structlog.processors.StackInfoRenderer(),
    ]
    coloured = file is None and sys.stderr.isatty()
    rendering: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=_WITHOUT_VALUES)]
        if coloured
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _file_handler(file: Path) -> logging.Handler:
    """Opened at once: else a file that cannot be written is a traceback for every line."""
    try:
        return RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES)
    except OSError as error:
        raise ConfigurationError(f"the log {file} cannot be written: {error.strerror}") from None


def make_folder(folder: Path) -> None:
    """Raises `ConfigurationError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder for logs, {folder}, cannot be made: {error.strerror}"
        ) from None


def _name_the_role(role: str) -> structlog.typing.Processor:
    def add(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("role", role)
        return event

    return add
