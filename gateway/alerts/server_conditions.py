"""The conditions about the server of the database and about certificates; `conditions.py` has all
others.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from gateway.alerts.conditions import Condition, Finding
from gateway.alerts.facts import Facts

WAL_FACTOR: Final = 4
"""So many times `max_wal_size` is too much: something keeps it from being removed …"""
WAL_BYTES_MIN: Final = 1024**3
"""… where that is so much."""
TRANSACTION_MS_MAX: Final = 3_600_000
DAY_MS: Final = 86_400_000
EXPIRY_DAYS: Final = 21
EXPIRY_DAYS_CRITICAL: Final = 3


def wal_not_archived(facts: Facts) -> Iterator[Finding]:
    if facts.server is not None and (since := facts.unarchived_since_ms):
        details, held = {"file": facts.server.unarchived}, facts.now_ms - since
        yield Finding(subject="database", since_ms=since, held_ms=held, details=details)


def wal_large(facts: Facts) -> Iterator[Finding]:
    if (server := facts.server) is None:
        return
    if server.wal_bytes >= max(server.wal_bytes_max * WAL_FACTOR, WAL_BYTES_MIN):
        why = "what its settings keep, or it is not archived"
        if server.slot_bytes * 2 >= server.wal_bytes:
            why = f"the replication slot {server.slot!r}, whose reader is behind or gone"
        sizes = {"megabytes": server.wal_bytes / 1e6, "usual": server.wal_bytes_max / 1e6}
        yield Finding(subject="database", details={**sizes, "why": why})


def transaction_old(facts: Facts) -> Iterator[Finding]:
    oldest = facts.server.oldest if facts.server is not None else None
    if oldest is not None and oldest.age_ms > TRANSACTION_MS_MAX:
        details = {"who": oldest.who, "hours": oldest.age_ms / 3_600_000}
        yield Finding(subject="database", since_ms=oldest.since_ms, details=details)


def _certificate_expires(critical: bool, facts: Facts) -> Iterator[Finding]:
    for one in facts.certificates:
        days = (one.expires_ms - facts.now_ms) / DAY_MS
        if critical is (days < EXPIRY_DAYS_CRITICAL) and days < EXPIRY_DAYS:
            when = f"expires in {days:.1f} days" if days > 0 else "has expired"
            yield Finding(subject=one.path, details={"use": one.use, "when": when})


certificate_expires: Final[Condition] = partial(_certificate_expires, False)
certificate_expires_soon: Final[Condition] = partial(_certificate_expires, True)
