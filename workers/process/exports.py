"""What a worker exports by OpenTelemetry: spans, and the lines of its agents.

Imported only with `otel` on, after the fork: exporting takes threads.
"""

from collections.abc import Callable
from functools import partial

from eventstore.telemetry.logs import LogsExport
from eventstore.telemetry.requirements import is_exported
from eventstore.telemetry.telemetry import Telemetry
from workers.output.exported_lines import ExportedLogFile
from workers.output.lines import Output
from workers.process.options import WorkerOptions
from workers.runtime.slots import Slots
from workers.runtime.traced_slots import TracedSlots, share_provider


class Exports:
    """Of one worker. `new_slots` makes its slots."""

    def __init__(self, options: WorkerOptions, output: Output | None) -> None:
        self.new_slots: Callable[..., Slots] = Slots
        self._exports: list[Telemetry | LogsExport] = []
        more = {"muster.pool": options.pool_name}
        if is_exported("TRACES"):
            telemetry = Telemetry("worker", options.worker_id, more)
            self._exports.append(telemetry)
            self.new_slots = partial(TracedSlots, telemetry)
            if options.exits:  # else it is not the only worker of its process
                share_provider(telemetry)
        if is_exported("LOGS") and output is not None:
            logs = LogsExport("worker", options.worker_id, more)
            self._exports.append(logs)
            output.file = ExportedLogFile(output.file.path, logs)

    async def stop(self) -> None:
        """Export what is left, for a bounded time."""
        for export in self._exports:
            await export.stop()
