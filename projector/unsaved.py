"""What a recovered log does not have, though somebody acknowledged it, ran it, or wrote it."""

from collections.abc import Sequence

from msgspec import Struct

from eventstore.agent import Agent
from eventstore.salvage import HOLDS, Report
from projector.rows import EventRow, Position


class Unsaved(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was acknowledged, or ran, and that the archive does not have."""

    kind: str
    agent_id: str
    generation: int
    seq: int
    ts: int = 0
    incarnation: int = 0
    reporter: str = ""
    operation_id: str = ""


def find_unsaved(
    at: Position,
    agents: dict[str, Agent],
    reports: Sequence[Report],
    void: Sequence[EventRow],
) -> list[Unsaved]:
    """What was acknowledged above the archive, what ran and is not recorded, what is void."""
    found = [
        Unsaved(
            kind=one.kind,
            agent_id=one.agent_id,
            generation=one.generation,
            seq=one.seq,
            ts=one.ts,
            incarnation=one.incarnation,
            reporter=one.reporter,
            operation_id=one.operation_id,
        )
        for one in reports
        if one.generation >= at.generation
        and (one.seq > at.seq or (one.kind == HOLDS and not _recorded(one, agents)))
    ]
    found += [
        Unsaved(
            kind=row.type,
            agent_id=row.subject,
            generation=row.generation,
            seq=row.seq,
            ts=row.ts,
            incarnation=row.incarnation,
            reporter="stream",
        )
        for row in void
    ]
    return sorted(found, key=lambda one: (one.seq, one.kind, one.agent_id))


def _recorded(held: Report, agents: dict[str, Agent]) -> bool:
    agent = agents.get(held.agent_id)
    return agent is not None and agent.claim_seq == held.seq
