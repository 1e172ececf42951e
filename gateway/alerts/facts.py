"""What the rules of alerts decide on: everything that a gateway knows at one point in time.

Nothing here is read or computed by a rule itself, so a rule is a pure function. What could not be
read is missing, and `known` says so: then the rules that need it decide nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from eventstore.language.alerts import Case
from eventstore.log.notices import Notice
from eventstore.retention import Retention
from gateway.fallback import Fallback, HandoverFailures
from projector.queries.database_server import DatabaseServer
from projector.queries.views import Timed

REDIS: Final = "redis"
VIEWS: Final = "views"
DATABASE: Final = "database"
"""What the server of the database says of itself."""
RECOVER_ADVICE: Final = "`muster recover` rebuilds the log from the archive"


class RedisFacts(Struct, frozen=True, kw_only=True):
    """Sizes in bytes; `memory_limit` 0 means none was set, `memory_system` is the machine's."""

    reachable: bool
    kind: str = ""
    version: str = ""
    memory_used: int = 0
    memory_limit: int = 0
    memory_system: int = 0
    clients: int = 0
    append_only: bool = False
    uptime_seconds: int = 0
    error: str = ""
    save_error: str = ""
    """Why it cannot write its data to disk; empty if it can."""

    @property
    def memory_share(self) -> float:
        """Of its limit, or of the machine where none was set."""
        limit = self.memory_limit or self.memory_system
        return self.memory_used / limit if limit else 0.0


class StoredEvents(Struct, frozen=True, kw_only=True):
    """Which of a pool's events are in Redis. `oldest_ms` is log time.

    `first_seq` is 1 if the first entry is no event: how many have left is not known then.
    """

    entries: int = 0
    first_seq: int = 1
    oldest_ms: int = 0


class ViewFacts(Timed, frozen=True, kw_only=True):
    """How far the views of one log are. `pool` is empty for the catalogue."""

    pool: str
    seq: int
    head: int
    lag_seconds: float
    status: str
    since: int | None = None
    """When this gateway first observed that status, in ms; null while they follow."""
    since_time: datetime | None = None
    lost: bool = False
    """Whether they are stopped until the log is recovered."""


class Waiting(Struct, frozen=True, kw_only=True):
    """The pending agents of a pool. `since_ms`: since when the one has waited that waited most."""

    count: int
    since_ms: int
    reason: str
    """What that one waits for."""
    newest: tuple[Case, ...] = ()


class PoolFacts(Struct, frozen=True, kw_only=True):
    """One pool. Of views: `maximum` to `lost_states`; of Redis: `blocked` to `stored`."""

    now_ms: int
    """The time of its log."""
    maximum: int = 0
    workers: int = 0
    free: int = 0
    waiting: Waiting | None = None
    lost_states: tuple[Case, ...] = ()
    blocked: str = ""
    """Why no worker is started although one is needed."""
    damaged: str = ""
    halted: str = ""
    parked: int = 0
    stored: StoredEvents = StoredEvents()
    # From its events, as this gateway has followed them.
    lost: tuple[Case, ...] = ()
    failed: tuple[Case, ...] = ()
    looping: tuple[Case, ...] = ()
    starts: int = 0
    failures: int = 0
    failing_since_ms: int = 0


class CertificateFacts(Struct, frozen=True, kw_only=True):
    """A certificate that a gateway uses. `use`: what for, in words."""

    use: str
    path: str
    expires_ms: int


class Facts(Struct, frozen=True, kw_only=True):
    """All that is known. Times in ms since 1970; `pools` are those that were asked about."""

    now_ms: int
    known: frozenset[str] = frozenset({REDIS, VIEWS, DATABASE})
    """What could be read: `redis`, `views`, `database`."""
    asked: frozenset[str] | None = None
    """The pools that were asked about; None: all."""
    pools: Mapping[str, PoolFacts] = {}
    views: Sequence[ViewFacts] = ()
    views_error: str = ""
    views_since_ms: int = 0
    """Since when they cannot be read; 0 if they can."""
    redis: RedisFacts = RedisFacts(reachable=True)
    redis_since_ms: int = 0
    """Since when it has not answered; 0 if it does."""
    rewrite_needed: bool = False
    no_writes_reason: str = ""
    clock_ahead_ms: int = 0
    """By how much log time differs from the clock of this host."""
    disk_free: int | None = None
    """Bytes, where the file of the views is; None: not known, or they are elsewhere."""
    disk_path: str = ""
    server: DatabaseServer | None = None
    """None where the database is no server, or did not answer."""
    unarchived_since_ms: int = 0
    """Since when its write-ahead log is not archived, as this gateway has observed; 0: it is."""
    certificates: Sequence[CertificateFacts] = ()
    notices: Sequence[Notice] = ()
    tail_stopped: Mapping[str, str] = {}
    lost_commands: Sequence[str] = ()
    """What this gateway acknowledged and a recovery could not save, described."""
    lost_commands_ms: int = 0
    undelivered: Mapping[str, tuple[int, str]] = {}
    """By webhook: how many dead letters it has, and the error of the newest."""
    fallback: Fallback | None = None
    handover: HandoverFailures | None = None
    handover_path: str = ""
    retention: Retention = Retention()
