"""Whether a log is still the one that was projected; if not, the reason as a sentence."""

from typing import Final

from eventstore.log.replies import LogHead
from projector.intake.source import Source, read_archive
from projector.store.database import Database
from projector.store.rows import Position

LOSS_PREFIXES: Final = ("missing: ", "halted: ", "rolled back: ", "rewritten: ", "generation ")
"""Prefixes of the reasons that call for a recovery, and of no others."""


def describe_damage(position: Position, head: LogHead, *, intact: bool = True) -> str:
    """Why a log that ends at `head` cannot be projected further; empty if it can."""
    if head.generation == 0:
        return f"missing: the log is gone; the views are at seq {position.seq}"
    if not intact:
        return f"missing: streams of the log are gone; the views are at seq {position.seq}"
    if head.halted:
        return f"halted: {head.halted}"
    replaced = (
        position.generation and head.generation > position.generation and head.seq <= position.seq
    )
    # A log that was recovered goes on with an event that says so.
    if head.generation < position.generation or replaced:
        return f"generation {head.generation} replaced generation {position.generation}"
    if head.seq < position.seq:
        return f"rolled back: the log ends at seq {head.seq}, the views at {position.seq}"
    return ""


def is_lost(status: str) -> bool:
    """Whether a status says that the views are stopped until their log is recovered."""
    return status.startswith(LOSS_PREFIXES)


async def rewritten(source: Source, database: Database, position: Position) -> str:
    """Whether the stream has another event at the last projected position; empty if not."""
    if not position.seq:
        return ""
    streamed = await source.entry_at(position)
    if streamed is None:
        trimmed = await source.starts_after(position)
        return "" if trimmed else f"rewritten: the event at seq {position.seq} is gone"
    before = Position(position.pool, 0, position.seq - 1)
    stored = await database.read(lambda c: read_archive(c, before, count=1, last=position.seq))
    same = not stored or stored[-1].event_id == streamed.event_id
    return (
        ""
        if same and streamed.seq == position.seq
        else f"rewritten: another event at seq {position.seq}"
    )
