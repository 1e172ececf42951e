"""The replacement of a pool's workers by others, as the catalogue records it."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

REPLACED: Final = "replaced"
"""Why a worker is cordoned, and drains, that another one is to replace."""


class ReplacementStatus(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


class Replacement(Struct, frozen=True, kw_only=True):
    """The last one of a pool. Times are in milliseconds since 1970, in the catalogue's log time."""

    replacement_id: str
    """Of the event that started it."""
    status: ReplacementStatus = ReplacementStatus.RUNNING
    reason: str
    actor: str
    """Who asked for it."""
    epoch: int
    """Workers with a lower one are replaced."""
    workers: int
    """How many there were."""
    max_unavailable: int
    """At most so many are gone, or not proven yet, at the same time."""
    deadline_seconds: float = 0.0
    """How long a worker's agents may take to end by themselves before they are released."""
    detail: str = ""
    """Why it has stopped."""
    started_at: int
    ended_at: int = 0

    @property
    def runs(self) -> bool:
        return self.status is ReplacementStatus.RUNNING
