"""Whether what a stream holds can be what was projected, in words."""

from typing import Final

from projector.intake.source import Head, Source, archived
from projector.store.database import Database
from projector.store.rows import Position

LOST: Final = ("missing: ", "halted: ", "rolled back: ", "rewritten: ", "generation ")
"""What the reasons given here begin with, and none that has another cure than recovering."""


def describe(at: Position, head: Head, *, whole: bool = True) -> str:
    """Why a log that stands at `head` cannot be gone on from; empty if it can."""
    if head.generation == 0:
        return f"missing: the log is gone; the views are at seq {at.seq}"
    if not whole:
        return f"missing: streams of the log are gone; the views are at seq {at.seq}"
    if head.halted:
        return f"halted: {head.halted}"
    moved = at.generation and head.generation > at.generation and head.seq <= at.seq
    if head.generation < at.generation or moved:  # one that was recovered has an event that says so
        return f"generation {head.generation} came in place of {at.generation}"
    if head.seq < at.seq:
        return f"rolled back: the log ends at seq {head.seq}, the views at {at.seq}"
    return ""


def is_lost(status: str) -> bool:
    """Whether views stand still, by this status, until their log is recovered."""
    return status.startswith(LOST)


async def rewritten(source: Source, database: Database, at: Position) -> str:
    """Whether another event stands where the last one was taken; empty if not."""
    if not at.seq:
        return ""
    theirs = await source.at(at)
    if theirs is None:
        trimmed = await source.starts_after(at)
        return "" if trimmed else f"rewritten: the event at seq {at.seq} is not there any more"
    before = Position(at.pool, 0, at.seq - 1)
    ours = await database.read(lambda c: archived(c, before, count=1, last=at.seq))
    same = not ours or ours[-1].event_id == theirs.event_id
    return "" if same and theirs.seq == at.seq else f"rewritten: another event at seq {at.seq}"
