"""A file of lines that are exported by OpenTelemetry, too; imported only with `otel` on."""

from pathlib import Path

import msgspec

from eventstore.telemetry.logs import LogsExport
from workers.output.log_files import LogFile


class ExportedLogFile(LogFile):
    """Each line is exported in the context of whoever writes it: within a span it has its trace."""

    def __init__(self, path: Path, export: LogsExport) -> None:
        super().__init__(path)
        self._export = export

    def write(self, line: bytes) -> bool:
        self._export.write(msgspec.json.decode(line))
        return super().write(line)
