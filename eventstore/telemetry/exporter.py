"""Exporting to a receiver that may be gone: said once when it begins, and once when it is over.

The exporter of OpenTelemetry logs every attempt, in every process. What it logs for us is dropped;
what it logs for an agent's own code is not.
"""

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from eventstore.ticks import set_within

log = structlog.get_logger("muster.telemetry")

REASON_MAX: Final = 300
STOP_SECONDS: Final = 1.0
"""How long an end waits for what is not exported yet; not at all for a receiver that is gone."""


class Exporter(Protocol):
    """Of spans, metrics or logs."""

    def export(self, batch: Any, /) -> Any: ...

    def shutdown(self) -> None: ...


class QuietExporter:
    """Exports by another, from one thread. `failing`: the last batch was lost."""

    def __init__(self, exporter: Exporter, signal: str) -> None:
        self.failing = False
        self._exporter = exporter
        self._signal = signal
        logger = logging.getLogger(type(exporter).__module__)
        if _drop_ours not in logger.filters:
            logger.addFilter(_drop_ours)

    def export(self, batch: Any, /) -> Any:
        _ours.active, _ours.reason = True, ""
        result = None
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001  the thread would log it, each time
            _ours.reason = str(error)
        finally:
            _ours.active = False
        failed = result is None or result.name != "SUCCESS"
        if failed and not self.failing:
            reason = _ours.reason[:REASON_MAX]
            log.warning("telemetry.export_failed", signal=self._signal, reason=reason)
        elif self.failing and not failed:
            log.info("telemetry.exported", signal=self._signal)
        self.failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        return True


class Provider(Protocol):
    """Of tracers, or of loggers."""

    def shutdown(self) -> object: ...


async def shut_down(provider: Provider, exporter: QuietExporter) -> None:
    """Export what is left, for a bounded time."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, name="otel-shutdown", daemon=True).start()
    await set_within(done, 0.0 if exporter.failing else STOP_SECONDS)


_ours = threading.local()


def _drop_ours(record: logging.LogRecord) -> bool:
    """A filter: drops what is logged while a thread exports for us, and stores the last of it."""
    if not getattr(_ours, "active", False):
        return True
    _ours.reason = record.getMessage()
    return False
