"""How far the archive of a pool may be pruned, and what keeps more from it."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, func, select

from eventstore.language.agents import TERMINAL, Status
from projector.archive.pace import Care
from projector.exports.manifest import ExportFile
from projector.fold.projection import read_positions, stopped
from projector.history.positions import position_at_time
from projector.intake.archive import GenerationRange, generation_ranges, stored_ranges
from projector.recovery.archived_state import first_remembered
from projector.recovery.rewrite import REFILL_EVENTS
from projector.store.archive_starts import ArchiveStart, read_starts
from projector.store.rows import EventRow, Position
from projector.store.tables import SERVING

KEPT: Final = REFILL_EVENTS
"""So many of the last events of a pool stay: a recovery puts them back into its stream."""


MORE: Final = "what follows is left to the next time"
_A: Final = SERVING.agents.c
_LIVE: Final = tuple(status.value for status in Status if status not in TERMINAL)


class Limit(Struct, frozen=True, kw_only=True):
    """Of one pool: events up to seq `end` may be removed; 0: none."""

    pool: str
    end: int = 0
    parts: tuple[GenerationRange, ...] = ()
    """These: all that is archived up to there, also what a recovery has superseded."""
    valid: tuple[GenerationRange, ...] = ()
    """What of it is folded."""
    start: ArchiveStart | None = None
    """Where it was pruned to before."""
    why: str = ""
    """What keeps later events; empty: that they are not before the time."""

    @property
    def events(self) -> int:
        return sum(part.last - part.first + 1 for part in self.parts)

    def includes(self, row: EventRow) -> bool:
        return _includes(self.parts, row)

    def folds(self, row: EventRow) -> bool:
        return _includes(self.valid, row)


def _includes(parts: Sequence[GenerationRange], row: EventRow) -> bool:
    return any(p.generation == row.generation and p.first <= row.seq <= p.last for p in parts)


def find_limit(
    connection: Connection,
    pool: str,
    files: Sequence[ExportFile] | None,
    *,
    before_ms: int,
    now_ms: int,
    care: Care = Care(),  # noqa: B008  (it has no state)
) -> Limit:
    """The last event before a time that may be removed. `files`: what is exported, in order; None:
    whatever is to be removed will be.
    """
    start, stored = read_starts(connection).get(pool), stored_ranges(connection, pool)
    valid = generation_ranges(connection, pool)
    if start is None and stored[0].first > 1:
        return Limit(pool=pool, why=f"its archive begins at seq {stored[0].first}")
    views = read_positions(connection, SERVING).get(pool, Position(pool))
    if stopped(views) or views.generation != valid[-1].generation:
        return Limit(pool=pool, start=start, why="its views have stopped")
    limits = [
        (position_at_time(connection, pool, before_ms - 1).seq, ""),
        (valid[-1].last - KEPT, f"its last {KEPT:,} events stay, for a recovery"),
        (views.seq, "what follows is not in the views"),
    ]
    if files is not None:
        limits.append((_exported(files, stored[0]), "what follows is not exported"))
    if care.keeps_living and (living_ms := _oldest_living_ms(connection, pool)):
        seq = position_at_time(connection, pool, living_ms - 1).seq
        limits.append((seq, "what follows is of an agent that lives"))
    if care.events_max:
        limits.append((stored[0].first - 1 + care.events_max, MORE))
    end, why = min(limits, key=lambda limit: limit[0])
    remembered = first_remembered(connection, pool, end, now_ms)
    if remembered:
        end, why = remembered - 1, "an Idempotency-Key of what follows is remembered"
    pruned = start.seq if start else 0
    found = Limit(pool=pool, start=start, why=why)
    if (end := max(end, pruned)) < stored[0].first:
        return found
    generation = next(part.generation for part in reversed(valid) if part.first <= end)
    return replace(
        found,
        end=end,
        parts=tuple(_up_to(stored, generation, end)),
        valid=tuple(_up_to(valid, generation, end)),
    )


def _up_to(parts: Sequence[GenerationRange], generation: int, end: int) -> list[GenerationRange]:
    """All of the earlier generations, and up to seq `end` of that one."""
    return [
        replace(part, last=min(part.last, end)) if part.generation == generation else part
        for part in parts
        if part.generation <= generation
    ]


def _oldest_living_ms(connection: Connection, pool: str) -> int:
    """When the oldest agent that has not ended was requested; 0: none lives."""
    live = (_A.pool_name == pool, _A.status.in_(_LIVE))
    return int(connection.scalar(select(func.min(_A.created_at)).where(*live)) or 0)


def _exported(files: Sequence[ExportFile], first: GenerationRange) -> int:
    """The last seq up to which an export has every event from the archive's first one on."""
    next_seq = first.first
    for file in files:
        if file.generation < first.generation or (
            file.generation == first.generation and file.last_seq < first.first
        ):
            continue
        if file.first_seq > next_seq:
            break
        next_seq = file.last_seq + 1
    return next_seq - 1
