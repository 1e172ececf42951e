"""The table of metrics keeps to Prometheus' conventions; measures become its text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from eventstore.keys import POOL_NAME
from eventstore.metrics.exposition import expose
from eventstore.metrics.families import CATALOGUE_LABEL, FAMILIES
from eventstore.metrics.measures import Histogram, Measures
from tests.metrics import read

UNITS = ("_seconds", "_bytes")
UNBOUNDED = {"agent", "agent_id", "worker", "worker_id", "process_id", "project", "project_id"}


def everything() -> Measures:
    """One series of each metric."""
    measures = Measures()
    for name, family in FAMILIES.items():
        labels = [f"a {label}" for label in family.labels]
        if family.kind == "histogram":
            measures.observe(name, 0.3, *labels)
        else:
            measures.set(name, 1, *labels)
    return measures


@pytest.mark.parametrize("name", FAMILIES)
def test_a_name_keeps_to_the_conventions(name: str) -> None:
    family = FAMILIES[name]
    assert re.fullmatch(r"muster_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") is (family.kind == "counter")
    assert name.endswith(UNITS) or family.kind != "histogram"
    assert not UNBOUNDED & set(family.labels)
    assert list(family.bounds) == sorted(set(family.bounds))
    assert bool(family.bounds) is (family.kind == "histogram")


def test_every_metric_can_be_reported() -> None:
    text = expose(everything()).decode()
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    for name, family in FAMILIES.items():
        assert kinds[name.removesuffix("_total")] == family.kind


def test_a_label_that_is_missing_is_no_series_without_it() -> None:
    measures = Measures()
    measures.count("muster_spawns_total")
    with pytest.raises(AssertionError):
        expose(measures)


def test_measures_of_several_sources_are_one_text() -> None:
    counted, now = Measures(), Measures()
    counted.count("muster_spawns_total", "a", by=2)
    now.set("muster_parked", 0.0, "a")
    samples = read(expose(counted, now).decode())
    assert samples == {"muster_spawns_total": {("a",): 2}, "muster_parked": {("a",): 0}}


def test_what_is_about_other_pools_is_forgotten_and_nothing_else() -> None:
    measures = Measures()
    for pool in ("kept", "gone"):
        measures.count("muster_restarts_total", pool, "lost")
        measures.observe("muster_claim_seconds", 0.1, pool)
    measures.count("muster_http_requests_total", "GET", "gone", "200")
    measures.retain_pools({"kept"})
    samples = read(expose(measures).decode())
    assert samples["muster_restarts_total"] == {("kept", "lost"): 1}
    assert samples["muster_claim_seconds_count"] == {("kept",): 1}
    assert len(samples["muster_http_requests_total"]) == 1


def test_no_pool_can_have_the_label_of_the_catalogue() -> None:
    assert not POOL_NAME.fullmatch(CATALOGUE_LABEL)


values = st.lists(st.floats(min_value=0, max_value=1e6), max_size=30)


@given(values, values)
def test_a_histogram_that_is_added_is_as_if_all_was_observed_by_one(
    mine: list[float], its: list[float]
) -> None:
    bounds = FAMILIES["muster_claim_seconds"].bounds
    one, other, both = Histogram(bounds), Histogram(bounds), Histogram(bounds)
    for histogram, observed in ((one, mine), (other, its), (both, [*mine, *its])):
        for value in observed:
            histogram.observe(value)
    one.add(*other.values)
    assert one.counts == both.counts
    assert one.sum == pytest.approx(both.sum)
    other.clear()
    assert not any(other.counts)
    assert other.sum == 0


def test_a_value_at_a_bound_is_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.counts == [1, 2, 1]


def test_a_histogram_of_other_bounds_is_refused_as_a_whole() -> None:
    histogram = Histogram((1.0, 2.0))
    with pytest.raises(ValueError, match="argument"):
        histogram.add((1, 1), 2.0)
    assert (histogram.counts, histogram.sum) == ([0, 0, 0], 0.0)
