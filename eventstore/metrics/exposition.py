"""Measures as Prometheus reads them, by its official client.

To be imported when it is asked for the first time: the client takes 0.7 to 2.5 MB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from eventstore.metrics.families import FAMILIES, Family
from eventstore.metrics.measures import Histogram, Labels, Measures

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def collect(*measures: Measures) -> CollectorRegistry:
    """These measures as they are now, of which no two have the same series, and this process's."""
    registry = CollectorRegistry()
    registry.register(_Collected(list(_metrics(measures))))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def expose(*measures: Measures) -> bytes:
    """The text of all that."""
    return generate_latest(collect(*measures))


class _Collected(Collector):
    """Metrics that were collected before."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(measures: Sequence[Measures]) -> Iterator[Metric]:
    for name, family in FAMILIES.items():
        numbers = [one.numbers[name] for one in measures if name in one.numbers]
        histograms = [one.histograms[name] for one in measures if name in one.histograms]
        if any(histograms):
            yield _distribution(name, family, histograms)
        elif any(numbers):
            yield _numbers(name, family, numbers)


def _numbers(name: str, family: Family, found: Sequence[Mapping[Labels, float]]) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.summary, labels=family.labels)
    for series in found:
        for labels, value in series.items():
            metric.add_metric(_complete(labels, family), value)
    return metric


def _distribution(name: str, family: Family, found: Sequence[Mapping[Labels, Histogram]]) -> Metric:
    metric = HistogramMetricFamily(name, family.summary, labels=family.labels)
    for series in found:
        for labels, histogram in series.items():
            bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            metric.add_metric(_complete(labels, family), buckets, histogram.sum)
    return metric


def _complete(labels: Labels, family: Family) -> Labels:
    """The client would leave out what has no name."""
    assert len(labels) == len(family.labels), f"{labels} for {family.labels}"
    return labels
