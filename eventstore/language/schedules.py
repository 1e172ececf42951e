"""Times at which a pool is to have more workers: cron expressions, each in a time zone."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Meta, Struct

FIELDS: Final = "minute, hour, day of the month, month, day of the week"


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From each of its times on, until one of another schedule, a pool has so many workers.

    `cron` has five fields; `zone` is an IANA time zone. Raises `ValueError`.
    """

    cron: Annotated[str, Meta(max_length=256)]
    min_workers: Annotated[int, Meta(ge=0, le=10_000)]
    zone: Annotated[str, Meta(max_length=64)] = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (OSError, ValueError, KeyError):
            wanted = "an IANA time zone such as Europe/Berlin"
            raise ValueError(f"zone: expected {wanted}, got {self.zone!r}") from None
        if len(self.cron.split()) != 5:
            raise ValueError(f"cron: expected five fields ({FIELDS}), got {self.cron!r}")
        try:
            self.last(datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"cron: {error} in {self.cron!r}") from None

    def last(self, at: datetime) -> datetime | None:
        """The last of its times before `at`."""
        local = at.astimezone(ZoneInfo(self.zone))
        return next(CronSim(self.cron, local, reverse=True), None)


@lru_cache(maxsize=256)
def scheduled_workers(schedules: tuple[Schedule, ...], minute: int) -> int:
    """What the schedule says whose time came last, up to this minute (since 1970, inclusive)."""
    end = datetime.fromtimestamp(minute * 60 + 1, UTC)
    times = [(last, one.min_workers) for one in schedules if (last := one.last(end))]
    return max(times)[1] if times else 0
