"""What a gateway observes, and forgets."""

from eventstore.metrics.exposition import expose
from gateway.following.counters import Observations
from gateway.wire.problems import Kind
from tests.metrics import Samples, read

SPAWN = "/api/v1/agents/spawn"


def samples(observed: Observations) -> Samples:
    return read(expose(observed.measures).decode())


def test_a_pool_that_was_removed_has_no_faults_any_more() -> None:
    observed = Observations()
    for pool in ("gone", "there"):
        assert observed.since(f"views:{pool}", "stopped") > 0
    observed.forget("gone")
    assert "gone" not in repr(vars(observed))
    assert "there" in repr(vars(observed))


def test_requests_are_counted_by_status_and_measured_by_its_class() -> None:
    observed = Observations()
    for status in (200, 202, 503):
        observed.count_request("POST", SPAWN, status, 0.25)
    found = samples(observed)
    assert found["muster_http_requests_total"] == {
        ("POST", SPAWN, "200"): 1,
        ("POST", SPAWN, "202"): 1,
        ("POST", SPAWN, "503"): 1,
    }
    assert found["muster_http_request_seconds_sum"] == {
        ("POST", SPAWN, "2xx"): 0.5,
        ("POST", SPAWN, "5xx"): 0.25,
    }


def test_only_commands_that_were_not_carried_out_are_refused() -> None:
    observed = Observations()
    observed.count_request("POST", SPAWN, 429, 0.1, Kind.BACKLOG_FULL)
    observed.count_request("POST", SPAWN, 502, 0.1, Kind.AGENT_START_FAILED)
    observed.count_request("GET", SPAWN, 405, 0.1, Kind.METHOD_NOT_ALLOWED)
    observed.count_request("POST", SPAWN, 202, 0.1)
    assert samples(observed)["muster_commands_refused_total"] == {("backlog-full", SPAWN): 1}
