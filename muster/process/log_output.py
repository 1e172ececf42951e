"""How Muster's own processes log: structlog to a terminal, as JSON lines to a file or a pipe.

Records of libraries (through `logging`) are rendered the same way: a role's log is one stream.
"""

import functools
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog
from structlog.typing import EventDict, Processor

from eventstore.errors import ConfigurationError

FILE_BYTES = 10_000_000
FILES = 3


def configure(role: str, *, level: str = "info", file: Path | None = None) -> None:
    """Set up this process' logging. `file`: JSON lines there, rotated; else standard error.

    Raises `ConfigurationError` where the file cannot be written.
    """
    handler = logging.StreamHandler() if file is None else _file_handler(file)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        functools.partial(_add_role, role),
        structlog.processors.StackInfoRenderer(),
    ]
    coloured = file is None and sys.stderr.isatty()
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if coloured  # and without values, which include passwords and tokens
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
    problem = f"the folder for logs, {file.parent}, cannot be made"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        problem = f"the log {file} cannot be written"
        return RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{problem}: {error.strerror}") from None


def _add_role(role: str, _logger: object, _method: str, event: EventDict) -> EventDict:
    event.setdefault("role", role)
    return event
