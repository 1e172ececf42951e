"""The levels that a server supports, judged by what it reports."""

import pytest

from eventstore.durability.capability import assess
from eventstore.language.durability import Level

AOF = {"aof_enabled": "1", "redis_version": "8.0.1", "connected_slaves": "0"}
ALWAYS = {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ALWAYS, ""),
        ({**ALWAYS, "no-appendfsync-on-rewrite": "yes"}, "set no-appendfsync-on-rewrite no"),
        ({"appendfsync": "always"}, "set no-appendfsync-on-rewrite no"),
        ({"appendfsync": "no"}, "appendfsync is no; set appendfsync always"),
        ({"appendfsync": "everysec"}, "appendfsync is everysec; set appendfsync always"),
        ({}, "it hides its appendfsync; set appendfsync always"),
    ],
)
def test_fsynced_needs_appendfsync_always(config, reason):
    """On every version, of Redis 8 too: WAITAOF under `everysec` proves nothing."""
    found = assess(AOF, config, wanted_replicas=1).unavailable_reason(Level.FSYNCED)
    assert found.endswith(reason)
    assert bool(found) is bool(reason)


def test_without_an_append_only_file_nothing_is_fsynced():
    found = assess({**AOF, "aof_enabled": "0"}, ALWAYS, wanted_replicas=1)
    assert "no append-only file" in found.unavailable_reason(Level.FSYNCED)


@pytest.mark.parametrize(
    ("now", "seen", "wanted", "why"),
    [
        (1, 1, 1, ""),
        (0, 1, 1, ""),
        (0, 0, 1, "0 of 1 replicas follow it"),
        (1, 1, 2, "1 of 2 replicas follow it"),
    ],
)
def test_replicated_needs_as_many_replicas_as_were_ever_observed(now, seen, wanted, why):
    """One that is unreachable for a while may return in time; one that never was will not."""
    found = assess(
        {**AOF, "connected_slaves": str(now)}, {}, wanted_replicas=wanted, peak_replicas=seen
    )
    assert found.unavailable_reason(Level.REPLICATED).startswith(why)
    assert bool(found.unavailable_reason(Level.REPLICATED)) is bool(why)


def test_a_server_that_refuses_wait_cannot_say_what_is_replicated():
    found = assess(AOF, {}, wanted_replicas=1, peak_replicas=1, wait_refused="no permission")
    assert found.unavailable_reason(Level.REPLICATED) == "it refuses WAIT: no permission"


@pytest.mark.parametrize("level", [Level.ACCEPTED, Level.ARCHIVED])
def test_levels_without_redis_are_always_available(level):
    assert assess({}, {}, wanted_replicas=1).unavailable_reason(level) == ""
