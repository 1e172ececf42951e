"""Metrics by OpenTelemetry: what `/metrics` has, under the same names, sent at an interval.

Imported only where they are exported. Nothing is counted twice: the figures are those that a
process has anyway, read as Prometheus reads them.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, Final, TypeAlias, cast

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from eventstore.ids import new_id
from eventstore.metrics.families import FAMILIES, Family
from eventstore.metrics.measures import Histogram, Labels, Measures
from eventstore.telemetry.exporter import QuietExporter
from eventstore.telemetry.resource import resource_of
from eventstore.version import __version__

Scrape: TypeAlias = Callable[[], Awaitable[Sequence[Measures]]]

INTERVAL_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
INTERVAL_MS: Final = 60_000
"""As the specification has it."""
UNITS: Final = {"seconds": "s", "bytes": "By"}
CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class MetricsExport:
    """Of one process."""

    def __init__(self, service: str) -> None:
        self._resource = resource_of(service, new_id())
        self._exporter = QuietExporter(cast("Any", OTLPMetricExporter()), "metrics")
        self._since_ns = time.time_ns()
        self._thread: threading.Thread | None = None

    async def run(self, scrape: Scrape) -> None:
        """Until cancelled. While an export is under way, the next one is left out."""
        seconds = interval_seconds(os.environ.get(INTERVAL_VARIABLE, ""))
        while True:
            await asyncio.sleep(seconds)
            if self._thread is None or not self._thread.is_alive():
                data = self.data(await scrape())
                export = threading.Thread(
                    target=self._exporter.export, args=(data,), name="otel-metrics", daemon=True
                )
                self._thread = export
                export.start()

    def data(self, measures: Sequence[Measures]) -> MetricsData:
        """These measures as they are now, of which no two have the same series."""
        now_ns = time.time_ns()
        scope = InstrumentationScope("muster", __version__)
        metrics = [
            *_metrics(measures, {"start_time_unix_nano": self._since_ns, "time_unix_nano": now_ns})
        ]
        scopes = [ScopeMetrics(scope, metrics, "")]
        return MetricsData([ResourceMetrics(self._resource, scopes, "")])


def interval_seconds(text: str) -> float:
    """What the variable says, in ms; a minute for what is no positive number."""
    ms = int(text) if text.isdecimal() else 0
    return (ms or INTERVAL_MS) / 1000


def _metrics(measures: Sequence[Measures], times: Mapping[str, Any]) -> Iterator[Metric]:
    for name, family in FAMILIES.items():
        numbers = [it for one in measures for it in one.numbers.get(name, {}).items()]
        histograms = [it for one in measures for it in one.histograms.get(name, {}).items()]
        data: Any = None
        if histograms:
            points = [_distribution(family, *it, times) for it in histograms]
            data = HistogramData(points, CUMULATIVE)
        elif numbers:
            data = _numbers(family, numbers, times)
        if data is not None:
            unit = UNITS.get(name.removesuffix("_total").rpartition("_")[2], "")
            yield Metric(name, family.summary, unit, data)


def _numbers(
    family: Family, found: Sequence[tuple[Labels, float]], times: Mapping[str, Any]
) -> Sum | Gauge:
    def point(labels: Labels, value: float) -> NumberDataPoint:
        return NumberDataPoint(attributes=_named(family, labels), value=float(value), **times)

    points = [*starmap(point, found)]
    if family.kind == "counter":
        return Sum(points, CUMULATIVE, is_monotonic=True)
    return Gauge(points)


def _distribution(
    family: Family, labels: Labels, histogram: Histogram, times: Mapping[str, Any]
) -> HistogramDataPoint:
    counts, total = histogram.values
    return HistogramDataPoint(
        attributes=_named(family, labels),
        count=sum(counts),
        sum=total,
        bucket_counts=counts,
        explicit_bounds=histogram.bounds,
        min=cast("Any", None),
        max=cast("Any", None),
        **times,
    )


def _named(family: Family, labels: Labels) -> dict[str, str]:
    return dict(zip(family.labels, labels, strict=True))
