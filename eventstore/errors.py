"""Every error of Muster, in one tree.

    MusterError
    ├── ConfigurationError        a setting, file or environment variable is wrong
    ├── ServerUnsuitable          Redis is too old, may evict, or is not what it must be
    └── LogError                  something about the log
        ├── LogUnreachable        Redis did not answer; nothing was written
        │   ├── Recovered         the log was rebuilt meanwhile; nothing was written
        │   └── NotEnoughReplicas Redis takes no writes while too few replicas follow it
        ├── OutcomeUnknown        the reply to a write never came; it may have been written
        ├── LogMissing            the streams of a pool are not there
        ├── RolledBack            the log is behind what this process has acknowledged
        ├── Halted                the log takes no writes until it is recovered
        ├── CommandLost           what a command was acknowledged for is not in the log any more
        ├── MemoryExhausted       Redis refuses new spawns at its memory limit
        ├── Busy                  a step lost against others too many times
        ├── WrongType             a key is of another type than it must be
        ├── LayoutTooNew          a newer version of Muster laid these keys out
        ├── Unreadable            the state of one agent or worker cannot be read
        └── UnknownEvent          an event of a type or version that this code cannot read

Expected ends of a race are not errors: see `eventstore.outcomes.Outcome`.
"""


class MusterError(Exception):
    """Something went wrong inside Muster."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigurationError(MusterError):
    """The configuration is wrong."""


class ServerUnsuitable(MusterError):
    """This Redis server cannot hold Muster's log."""


class LogError(MusterError):
    """The log could not be read or written."""


class LogUnreachable(LogError):
    """Redis did not answer; nothing was written."""


class Recovered(LogUnreachable):
    """The log was recovered since this process last heard of it; nothing was written."""

    def __init__(self, pool: str, generation: int) -> None:
        self.pool, self.generation = pool, generation
        super().__init__(
            f"the log of {_log_name(pool)} was recovered as generation {generation}: look again"
        )


class NotEnoughReplicas(LogUnreachable):
    """Too few replicas follow Redis for it to take writes (min-replicas-to-write)."""


class OutcomeUnknown(LogError):
    """The reply to a write never came: it may or may not have been written."""


class LogMissing(LogError):
    """The streams of this pool are not there: it was never created, or its log was lost."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        super().__init__(
            f"the log of {_log_name(pool)} is missing: it was never created, or was lost"
        )


class RolledBack(LogError):
    """The log is behind what was already acknowledged: Redis lost writes."""

    def __init__(self, pool: str, high_water_mark: tuple[int, int], found: tuple[int, int]) -> None:
        self.pool, self.high_water_mark, self.found = pool, high_water_mark, found
        super().__init__(
            f"the log of {_log_name(pool)} is at generation {found[0]}, seq {found[1]}, but"
            f" generation {high_water_mark[0]}, seq {high_water_mark[1]} was acknowledged:"
            " Redis lost writes"
        )


class Halted(LogError):
    """The log takes no writes: it lost some, or is being rebuilt."""

    def __init__(self, pool: str, reason: str) -> None:
        self.pool, self.reason = pool, reason
        super().__init__(
            f"the log of {_log_name(pool)} takes no writes until it is recovered: {reason}"
        )


class CommandLost(LogError):
    """What a command was acknowledged for is not in the log any more: Redis lost writes."""

    def __init__(self, pool: str, seq: int) -> None:
        self.pool, self.seq = pool, seq
        super().__init__(
            f"Redis lost what this command was acknowledged for: seq {seq} of pool {pool!r}"
            " is not there any more"
        )


class MemoryExhausted(LogError):
    """Redis is at its memory limit and takes no new spawns."""


class Busy(LogError):
    """A step lost against other writers too many times; try again."""


class WrongType(LogError):
    """A key is of another type than it must be: somebody else wrote it."""


class LayoutTooNew(LogError):
    """The keys of this pool were laid out by a newer version of Muster."""

    def __init__(self, pool: str, found: str, known: str) -> None:
        self.pool, self.found, self.known = pool, found, known
        super().__init__(
            f"the keys of {f'pool {pool!r}' if pool else 'the catalogue'} have layout {found}, this"
            f" version of Muster knows up to {known}: run the version that laid them out, or newer"
        )


class Unreadable(LogError):
    """What Redis holds of one agent or worker is damaged, or of a newer version."""

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


def _log_name(pool: str) -> str:
    return f"pool {pool!r}" if pool else "the catalogue"
