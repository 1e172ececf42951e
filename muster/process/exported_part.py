"""A part of a process, with its metrics and its log exported by OpenTelemetry.

Imported only with `otel` on. (What parts do is in spans, which they export themselves.)
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from eventstore.metrics.loop_lag import measure_lag
from eventstore.telemetry.logs import LogsExport, LogsHandler
from eventstore.telemetry.metrics import MetricsExport
from eventstore.telemetry.requirements import is_exported
from muster.process.part import Part

if TYPE_CHECKING:
    from muster.process.metrics_endpoint import Metrics


class ExportedPart:
    """`measures_lag`: nothing else measures that of the event loop."""

    def __init__(self, role: str, part: Part, metrics: "Metrics", *, measures_lag: bool) -> None:
        self._role, self._part, self._metrics = role, part, metrics
        self._measures_lag = measures_lag
        self._tasks: list[asyncio.Task[None]] = []
        self._logs: LogsExport | None = None
        self._handler: LogsHandler | None = None

    @property
    def url(self) -> str:
        """Of a gateway; else empty."""
        return str(getattr(self._part, "url", ""))

    async def start(self) -> None:
        """Raises what the part raises."""
        root = logging.getLogger()
        exported = any(isinstance(handler, LogsHandler) for handler in root.handlers)
        if is_exported("LOGS") and not exported:  # by another part of this process
            self._logs = LogsExport(self._role)
            self._handler = LogsHandler(self._logs)
            root.addHandler(self._handler)
        await self._part.start()
        if is_exported("METRICS"):
            export = MetricsExport(self._role).run(self._metrics.scrape)
            self._tasks.append(asyncio.create_task(export, name="otel.metrics"))
            if self._measures_lag:
                lag = self._metrics.measures.histogram("muster_loop_lag_seconds", self._role)
                self._tasks.append(asyncio.create_task(measure_lag(lag.observe), name="otel.lag"))

    async def stop(self) -> None:
        """A second call does nothing more."""
        try:
            await self._part.stop()
        finally:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()
            logs, self._logs = self._logs, None
            if logs is not None and self._handler is not None:
                logging.getLogger().removeHandler(self._handler)
                await logs.stop()
