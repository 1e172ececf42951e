"""Every rule: the condition that raises its alert, whom it names, and that it ends."""

from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.language.alerts import Case
from eventstore.log.notices import Notice
from eventstore.retention import Retention
from gateway.alerts.alerts import evaluate, ordered
from gateway.alerts.facts import (
    CertificateFacts,
    Facts,
    PoolFacts,
    RedisFacts,
    StoredEvents,
    ViewFacts,
    Waiting,
)
from gateway.alerts.ledger import CLEAR_MS, Closed, Ledger, Opened
from gateway.alerts.rules import RULES
from gateway.fallback import Fallback, HandoverFailure, HandoverFailures
from projector.queries.database_server import DatabaseServer, OpenTransaction

NOW = 1_000_000_000
WELL = Facts(now_ms=NOW, pools={"p": PoolFacts(now_ms=NOW)})
"""Nothing is wrong."""


def pool(**found: Any) -> dict[str, Any]:
    return {"pools": {"p": PoolFacts(now_ms=NOW, **found)}}


def waiting(seconds: float, **found: Any) -> dict[str, Any]:
    since = NOW - int(seconds * 1000)
    newest = (Case("a3", since + 2), Case("a2", since + 1))
    return pool(
        waiting=Waiting(count=4, since_ms=since, reason="no host has room", newest=newest), **found
    )


def cases(*names: str, text: str = "why") -> tuple[Case, ...]:
    return tuple(Case(name, NOW - 1000 + at, text) for at, name in enumerate(names))


def view(**found: Any) -> dict[str, Any]:
    of = {"pool": "p", "seq": 5, "head": 9, "lag_seconds": 0.0, "status": "ok", **found}
    return {"views": [ViewFacts(**of)]}


def redis(**found: Any) -> dict[str, Any]:
    return {"redis": RedisFacts(**{"reachable": True, **found})}


FALLBACK = Fallback(mode="single", reason="refused", primary="redis://r", since_ms=5)
AGAIN = Fallback(
    mode="single", reason="refused", primary="redis://r", since_ms=5, primary_reachable_ms=6
)
LEASE = "its lease was not renewed for 10 s"
LEFT = HandoverFailures(since_ms=7, report="", left=[HandoverFailure(reason="no", pool_name="q")])


def server(**known: Any) -> dict[str, Any]:
    """What PostgreSQL says of itself."""
    return {"server": DatabaseServer(**known)}


def open_for(age_ms: int) -> dict[str, Any]:
    return server(oldest=OpenTransaction("process 12 of psql", NOW - age_ms, age_ms))


def certificate(days: float) -> dict[str, Any]:
    """That it expires so soon."""
    expires_ms = NOW + int(days * 86_400_000)
    one = CertificateFacts(use="of this gateway", path="/c.pem", expires_ms=expires_ms)
    return {"certificates": [one]}


RAISED: dict[str, tuple[dict[str, Any], str, str]] = {
    "failure-rate": (pool(starts=15, failures=12), "p", "12 failures at 15 starts"),
    "crash-looping": (pool(looping=cases("a1")), "a1", "agent a1 of pool p failed three times"),
    "agent-failed": (pool(failed=cases("a1")), "a1", "agent a1 of pool p failed: why"),
    "pending-too-long": (waiting(301), "p", "no host has room"),
    "pool-at-maximum": (waiting(1, maximum=2, workers=2), "p", "all 2 workers are full"),
    "role-unavailable": (pool(blocked="role-not-declared: x"), "p", "role-not-declared: x"),
    "state-lost": (pool(lost_states=cases("a1")), "a1", "agent a1 of pool p saved last"),
    "process-damaged": (pool(damaged="working directory"), "p", "working directory"),
    "parked": (pool(parked=2), "p", "2 in pool p"),
    "worker-lost": (pool(lost=cases("w1")), "w1", "lost worker w1 of pool p: why"),
    "leases-lost": (pool(lost=cases("w1", "w2", "w3", text=LEASE)), "p", LEASE),
    "log-halted": (pool(halted="rolled back"), "p", "accepts no writes: rolled back"),
    "tail-stopped": ({"tail_stopped": {"p": "entry 1-0"}}, "p", "entry 1-0"),
    "commands-unsaved": ({"lost_commands": ["spawn a"] * 5}, "log", "and 2 more"),
    "projection-stopped": (view(status="gap: seq 6"), "p", "gap: seq 6"),
    "projection-lag": (view(lag_seconds=6.0), "p", "6.0 s and 4 events behind"),
    "stream-not-trimmed": (
        pool(stored=StoredEvents(entries=300_001, oldest_ms=NOW)),
        "p",
        "300,001 events are in Redis",
    ),
    "projector-unavailable": (
        {"notices": [Notice("projector-unavailable", "disk full", 9)]},
        "database",
        "disk full",
    ),
    "views-file-repaired": (
        {"notices": [Notice("views-file-repaired", "put back", 9)]},
        "database",
        "put back",
    ),
    "views-wal-large": ({"notices": [Notice("views-wal-large", "9 GB", 9)]}, "database", "9 GB"),
    "archive-not-pruned": (
        {"notices": [Notice("archive-not-pruned", "the folder is full", 9)]},
        "database",
        "the folder is full",
    ),
    "database-unreachable": ({"views_error": "refused"}, "database", "refused"),
    "webhook-undelivered": ({"undelivered": {"ops": (3, "it answered 500")}}, "ops", "3 messages"),
    "redis-unreachable": (redis(reachable=False, error="refused"), "redis", "refused"),
    "redis-memory": (redis(memory_used=90, memory_limit=100), "redis", "90% of its maxmemory"),
    "redis-cannot-save": (redis(save_error="no space"), "redis", "no space"),
    "redis-rewrite-needed": ({"rewrite_needed": True}, "redis", "append-only file"),
    "redis-not-enough-replicas": ({"no_writes_reason": "0 of 1"}, "redis", "0 of 1"),
    "clock-differs": ({"clock_ahead_ms": -11_000}, "clock", "11 s behind"),
    "disk-nearly-full": ({"disk_free": 10**6, "disk_path": "/v"}, "disk", "1 MB are free"),
    "database-wal-not-archived": (
        server(unarchived="00000001000000000000002A") | {"unarchived_since_ms": NOW - 301_000},
        "database",
        "00000001000000000000002A failed",
    ),
    "database-wal-large": (
        server(wal_bytes=5 * 10**9, wal_bytes_max=10**9, slot="old", slot_bytes=4 * 10**9),
        "database",
        "max_wal_size is 1,000 MB; because of the replication slot 'old'",
    ),
    "database-transaction-old": (open_for(7_200_000), "database", "2.0 hours: process 12 of psql"),
    "certificate-expires": (certificate(4), "/c.pem", "of this gateway expires in 4.0 days"),
    "certificate-expires-soon": (certificate(-1), "/c.pem", "of this gateway has expired"),
    "fallback-active": ({"fallback": FALLBACK}, "redis", "redis://r"),
    "fallback-can-end": ({"fallback": AGAIN}, "redis", "answers again"),
    "fallback-left-over": ({"handover": LEFT, "handover_path": "/f"}, "fallback", "pool 'q'"),
}
"""What is known, then the subject, and what the message says."""


def names(facts: Facts) -> set[str]:
    return {alert.name for alert in evaluate(facts).alerts.values()}


def test_there_is_a_case_of_every_rule() -> None:
    assert RAISED.keys() == RULES.keys()


def test_where_nothing_is_wrong_there_is_no_alert() -> None:
    assert names(WELL) == set()


@pytest.mark.parametrize("name", RULES)
def test_an_alert_is_raised_by_its_condition_and_names_its_subject(name: str) -> None:
    known, subject, words = RAISED[name]
    found = evaluate(replace(WELL, **known)).alerts.values()
    [alert] = [one for one in found if one.name == name]
    assert (alert.subject, alert.severity) == (subject, RULES[name].severity)
    assert words in alert.message
    assert alert.action
    assert alert.runbook == f"docs/operations.md#{name}"
    assert "{" not in alert.message + alert.action


@pytest.mark.parametrize("name", RULES)
def test_an_alert_ends_with_its_condition(name: str) -> None:
    """Opened once, and closed under the same id."""
    known, subject, _ = RAISED[name]
    ledger, ids = Ledger(), count(1)
    for at, facts in enumerate([replace(WELL, **known)] * 2 + [WELL] * 2):
        ledger.observe(evaluate(facts), NOW + at * CLEAR_MS, lambda: f"id{next(ids)}")
    opened, closed = (one for one in ledger.unwritten if one.alert.name == name)
    assert (type(opened), type(closed)) == (Opened, Closed)
    assert opened.alert.alert_id == closed.alert.alert_id
    assert closed.alert.subject == subject
    assert not ledger.open


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("failure-rate", pool(starts=9, failures=9)),
        ("failure-rate", pool(starts=40, failures=20)),
        ("pending-too-long", waiting(299)),
        ("pool-at-maximum", waiting(1, maximum=3, workers=2)),
        ("pool-at-maximum", waiting(1, maximum=2, workers=2, free=1)),
        ("role-unavailable", pool(blocked="no host has room")),
        ("leases-lost", pool(lost=cases("w1", "w2", text=LEASE))),
        ("leases-lost", pool(lost=cases("w1", "w2", "w3"))),
        ("projection-lag", view(lag_seconds=4.9)),
        ("redis-memory", redis(memory_used=80, memory_limit=100)),
        ("redis-memory", redis(memory_used=90, memory_system=1000)),
        ("redis-memory", redis(memory_used=90, memory_limit=1000, memory_system=100)),
        ("clock-differs", {"clock_ahead_ms": 9_000}),
        ("disk-nearly-full", {"disk_free": 2 * 1024**3}),
        ("stream-not-trimmed", pool(stored=StoredEvents(entries=200_000, oldest_ms=NOW))),
        (
            "database-wal-not-archived",
            server(unarchived="2A") | {"unarchived_since_ms": NOW - 299_000},
        ),
        ("database-wal-large", server(wal_bytes=39 * 10**8, wal_bytes_max=10**9)),
        ("database-wal-large", server(wal_bytes=10**9, wal_bytes_max=10**8)),
        ("database-transaction-old", open_for(3_599_000)),
        ("certificate-expires", certificate(21)),
        ("certificate-expires", certificate(2.9)),
        ("certificate-expires-soon", certificate(3)),
    ],
)
def test_a_condition_that_is_not_reached_raises_nothing(name: str, known: dict[str, Any]) -> None:
    assert name not in names(replace(WELL, **known))


def test_events_that_are_too_old_are_not_trimmed_enough() -> None:
    stored = StoredEvents(entries=2, oldest_ms=NOW - 1_300_000)
    facts = replace(WELL, **pool(stored=stored), retention=Retention(age_ms=600_000))
    assert names(facts) == {"stream-not-trimmed"}


def test_many_agents_of_a_pool_are_one_alert_with_its_count_and_the_newest_three() -> None:
    looping = cases(*(f"a{number}" for number in range(30)))
    facts = replace(WELL, pools={"p": PoolFacts(now_ms=NOW, looping=looping)})
    [alert] = evaluate(facts).alerts.values()
    assert (alert.subject, alert.pool_name, alert.count) == ("p", "p", 30)
    assert [case.subject for case in alert.newest] == ["a29", "a28", "a27"]
    assert alert.message.startswith("30 agents of pool p failed three times in a row or more")
    assert alert.since == looping[0].since


def test_of_several_pools_each_has_an_alert_of_its_own() -> None:
    one = PoolFacts(now_ms=NOW, failed=cases("a1"))
    found = evaluate(replace(WELL, pools={"p": one, "q": one})).alerts.values()
    assert sorted(alert.pool_name for alert in found) == ["p", "q"]


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.needs])
def test_what_cannot_be_read_decides_nothing(name: str) -> None:
    known, _, _ = RAISED[name]
    verdict = evaluate(replace(WELL, **known, known=frozenset()))
    assert name in verdict.undecided
    assert name not in {alert.name for alert in verdict.alerts.values()}


def test_the_critical_alerts_come_first_and_then_the_newest() -> None:
    facts = replace(WELL, **pool(failed=cases("a1"), lost=cases("w1")), views_error="refused")
    listed = ordered(evaluate(facts).alerts.values())
    assert [one.name for one in listed] == ["agent-failed", "database-unreachable", "worker-lost"]
