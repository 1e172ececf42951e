"""Log lines by OpenTelemetry: those of Muster's processes, and those that agents print and log.

Imported only where they are exported. The files of the lines stay as they are.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

from eventstore.ids import new_id
from eventstore.telemetry.exporter import QuietExporter, shut_down
from eventstore.telemetry.resource import resource_of
from eventstore.version import __version__

SEVERITIES: Final = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
BODIES: Final = ("event", "message")
"""Which field of a line is its text."""
IMPLIED: Final = frozenset((*BODIES, "level", "ts", "role", "worker_id"))
"""Fields that a record has elsewhere."""


class LogsExport:
    """Of one part of Muster. A record that is written within a span has its trace."""

    def __init__(self, service: str, instance_id: str = "", more: Mapping[str, str] = {}) -> None:
        resource = resource_of(service, instance_id or new_id(), more)
        self._exporter = QuietExporter(OTLPLogExporter(), "logs")
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        processor = BatchLogRecordProcessor(cast("Any", self._exporter))
        self._provider.add_log_record_processor(processor)
        self._logger = self._provider.get_logger("muster", __version__)

    def write(self, line: Mapping[str, Any], ns: int | None = None) -> None:
        """Export one line. `ns`: when it was written, in ns since 1970."""
        if str(line.get("logger", "")).startswith("opentelemetry"):
            return  # of the export itself, perhaps
        level = str(line.get("level", "info"))
        attributes = {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in line.items()
            if name not in IMPLIED and not name.startswith("_")
        }
        self._logger.emit(
            timestamp=ns,
            severity_text=level,
            severity_number=SEVERITIES.get(level, SeverityNumber.INFO),
            body=next((str(line[name]) for name in BODIES if name in line), ""),
            attributes=attributes,
        )

    async def stop(self) -> None:
        """Export what is left, for a bounded time."""
        await shut_down(self._provider, self._exporter)


class LogsHandler(logging.Handler):
    """Of what a process of Muster logs, which is structlog's dictionary or a library's text."""

    def __init__(self, export: LogsExport) -> None:
        super().__init__()
        self._export = export

    def emit(self, record: logging.LogRecord) -> None:
        line = record.msg if isinstance(record.msg, dict) else {"message": record.getMessage()}
        fields = {"level": record.levelname.lower(), "logger": record.name, **line}
        self._export.write(fields, int(record.created * 1e9))
