"""What a gateway remembers of the events that alerts are raised of, and for how long."""

from typing import Any

import msgspec

from eventstore.language.events import ENTRY_FIELDS
from gateway.following.incidents import (
    CASES_STORED,
    RATE_MS,
    WINDOW_MS,
    Incidents,
    RecentIncidents,
)

NOW = 100_000_000


def entry(kind: str, subject: str, ts: int = NOW, **data: Any) -> tuple[bytes, list[bytes]]:
    values = dict.fromkeys(ENTRY_FIELDS, b"")
    text = msgspec.json.encode(data)
    values |= {"type": kind.encode(), "subject": subject.encode(), "ts": b"%d" % ts, "data": text}
    return b"1-0", [part for name in ENTRY_FIELDS for part in (name.encode(), values[name])]


def crash(agent: str, failures: int, ts: int = NOW, **more: Any) -> tuple[bytes, list[bytes]]:
    error = {"type": "ValueError", "message": "no model", **more}
    return entry("agent.crashed", agent, ts, error=error, failures=failures, due_ms=ts + 1000)


def after(*entries: Any, now_ms: int = NOW) -> Incidents:
    incidents = RecentIncidents()
    incidents.consume("p", entries)
    return incidents.of("p", now_ms)


def test_an_agent_loops_from_its_third_failure_in_a_row_until_it_has_run_for_long() -> None:
    assert not after(crash("a", 2)).looping
    assert after(crash("a", 3)).looping["a"][0].text == "ValueError: no model"
    assert not after(crash("a", 3), crash("a", 1)).looping
    assert after(crash("a", 3), now_ms=NOW + WINDOW_MS).looping
    assert not after(crash("a", 3), now_ms=NOW + 1000 + WINDOW_MS).looping


def test_an_agent_that_ended_or_is_to_be_restarted_loops_no_more() -> None:
    for kind in ("agent.terminated", "agent.restart_requested", "agent.failed"):
        assert not after(crash("a", 3), entry(kind, "a", reason="r")).looping


def test_what_is_unavailable_is_no_failure() -> None:
    found = after(crash("a", 3, retry_after_ms=10))
    assert (found.looping, list(found.attempts)) == ({}, [])


def test_a_loss_and_a_failure_are_over_after_the_window() -> None:
    events = (entry("worker.lost", "w", reason="r"), entry("agent.failed", "a", reason="r"))
    found = after(*events, now_ms=NOW + WINDOW_MS - 1)
    assert (list(found.lost), list(found.failed)) == (["w"], ["a"])
    assert after(*events, now_ms=NOW + WINDOW_MS).empty


def test_a_failed_agent_whose_restart_was_requested_is_no_case_any_more() -> None:
    failed = entry("agent.failed", "a", reason="r")
    assert not after(failed, entry("agent.restart_requested", "a", reason="r")).failed


def test_starts_and_failures_are_counted_for_five_minutes() -> None:
    started = [entry("agent.started", f"a{n}", NOW + n) for n in range(5)]
    error = {"type": "E"}
    refused = entry("agent.start_failed", "b", NOW, error=error, failures=1)
    found = after(*started, crash("a0", 1), refused, now_ms=NOW + RATE_MS // 2)
    assert sum(one.starts for one in found.attempts) == 6
    assert sum(one.failures for one in found.attempts) == 2
    assert after(*started, now_ms=NOW + 2 * RATE_MS).empty


def test_only_so_many_are_remembered() -> None:
    losses = [entry("worker.lost", f"w{n}", NOW + n, reason="r") for n in range(CASES_STORED + 5)]
    found = after(*losses, now_ms=NOW + 2_000).lost
    assert len(found) == CASES_STORED
    assert f"w{CASES_STORED + 4}" in found


def test_a_pool_of_which_nothing_is_left_uses_no_memory() -> None:
    incidents = RecentIncidents()
    incidents.consume("p", [entry("agent.started", "a")])
    assert incidents.pools() == {"p"}
    incidents.of("p", NOW + 2 * RATE_MS)
    assert incidents.pools() == set()
    incidents.consume("p", [entry("agent.terminated", "a", reason="idle")])
    assert incidents.pools() == set()


def test_a_body_of_a_newer_version_is_no_obstacle() -> None:
    _, fields = entry("worker.lost", "w")
    fields[27] = b'{"reason": 7}'
    assert list(after((b"1-0", fields)).lost) == ["w"]
