"""What a role reports to Prometheus, as Prometheus reads it, and its own check of that."""

import subprocess
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from eventstore.metrics.exposition import expose
from eventstore.metrics.measures import Measures
from tests.process import system_tool

Samples: TypeAlias = dict[str, dict[tuple[str, ...], float]]
"""By the name of a sample: its values, by those of its labels without that of a bucket."""


class Metrics(Protocol):
    async def scrape(self) -> Sequence[Measures]: ...


def read(text: str) -> Samples:
    """The samples of Muster's own metrics; of histograms sums and counts."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("muster_") and "le" not in sample.labels:
                labels = tuple(sample.labels[name] for name in sorted(sample.labels))
                found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def scrape(metrics: Metrics | None) -> Samples:
    """What a part reports now."""
    assert metrics is not None
    return read(expose(*await metrics.scrape()).decode())


def total(name: str, *scraped: Samples) -> float:
    """The sum of a metric over all its series, and over all instances."""
    return sum(sum(samples.get(name, {}).values()) for samples in scraped)


def complaints(text: str) -> str:
    """What `promtool check metrics` says of a text: nothing if all is well."""
    done = subprocess.run(
        [system_tool("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")
