"""Which levels a server can give, judged from what it tells of itself."""

import pytest

from eventstore.durability.capability import Fsync, assess, may_withhold
from eventstore.language.durability import Level

AOF = {"aof_enabled": 1, "redis_version": "8.0.1", "connected_slaves": 0}
ALWAYS = {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


@pytest.mark.parametrize(
    ("config", "withholds", "fsync", "why"),
    [
        (ALWAYS, False, Fsync.ON_REPLY, ""),
        ({**ALWAYS, "no-appendfsync-on-rewrite": "yes"}, True, Fsync.NEVER, "rewrites"),
        ({"appendfsync": "always"}, True, Fsync.NEVER, "rewrites"),
        ({"appendfsync": "no"}, True, Fsync.NEVER, "leaves it to the system"),
        ({"appendfsync": "everysec"}, True, Fsync.WAITAOF, ""),
        ({"appendfsync": "everysec"}, False, Fsync.NEVER, "everysec and its WAITAOF cannot"),
        ({}, False, Fsync.NEVER, "does not tell its appendfsync"),
    ],
)
def test_fsynced_needs_a_server_that_says_when(config, withholds, fsync, why):
    found = assess(AOF, config, wanted_replicas=1, withholds=withholds)
    assert found.fsync is fsync
    assert why in found.unavailable_reason(Level.FSYNCED)
    assert bool(found.unavailable_reason(Level.FSYNCED)) is (fsync is Fsync.NEVER)


def test_without_an_append_only_file_nothing_is_fsynced():
    found = assess({**AOF, "aof_enabled": 0}, ALWAYS, wanted_replicas=1, withholds=True)
    assert "no append-only file" in found.unavailable_reason(Level.FSYNCED)


@pytest.mark.parametrize(
    ("info", "worth"),
    [
        (AOF, True),
        ({**AOF, "redis_version": "7.4.2"}, False),
        ({**AOF, "redis_version": "7.2.4", "valkey_version": "9.1.0"}, False),
        ({**AOF, "aof_enabled": 0}, False),
    ],
)
def test_waitaof_is_tried_only_where_it_was_mended(info, worth):
    """Earlier servers answer it too soon at times, also where a trial finds nothing."""
    assert may_withhold(info, {"appendfsync": "everysec"}) is worth


@pytest.mark.parametrize(
    ("now", "seen", "wanted", "why"),
    [
        (1, 1, 1, ""),
        (0, 1, 1, ""),
        (0, 0, 1, "0 replicas follow it, of 1"),
        (1, 1, 2, "1 replicas follow it, of 2"),
    ],
)
def test_replicated_needs_as_many_replicas_as_were_ever_seen(now, seen, wanted, why):
    """One that is away for a while may be back in time; one that never was will not."""
    found = assess({**AOF, "connected_slaves": now}, {}, wanted_replicas=wanted, peak_replicas=seen)
    assert found.unavailable_reason(Level.REPLICATED).startswith(why)
    assert bool(found.unavailable_reason(Level.REPLICATED)) is bool(why)


def test_a_server_that_refuses_wait_cannot_say_what_is_replicated():
    found = assess(AOF, {}, wanted_replicas=1, peak_replicas=1, wait_refused="no permission")
    assert found.unavailable_reason(Level.REPLICATED) == "it refuses WAIT: no permission"


@pytest.mark.parametrize("level", [Level.ACCEPTED, Level.ARCHIVED])
def test_what_redis_has_no_part_in_is_never_lacking(level):
    assert assess({}, {}, wanted_replicas=1).unavailable_reason(level) == ""
