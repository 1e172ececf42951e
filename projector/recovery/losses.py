"""What a recovered log does not have, though somebody acknowledged it, ran it, or wrote it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from eventstore.errors import Unreadable
from eventstore.language.events import AgentRequested, PoolCreated
from eventstore.recovery.loss_reports import AGENT_HELD, CREATE_POOL, LossReport
from projector.store.rows import EventRow, Position

STREAM: Final = "stream"
"""The reporter of what stood in the lost log itself."""
SPAWNED: Final = {"spawn", AgentRequested.type}
"""What an agent begins with: where it is named as lost, that the agent ran goes without saying."""


class LostCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was acknowledged, or ran, and that the archive does not have."""

    kind: str
    agent_id: str
    """The agent, or the pool of a command on a pool."""
    generation: int
    seq: int
    ts: int = 0
    incarnation: int = 0
    reporter: str = ""
    operation_id: str = ""
    pool: str = ""
    """Where it is not of the log that was recovered, but of a pool that went with the catalogue."""


def unarchived_event_report(row: EventRow) -> LossReport:
    """An event that stands in a stream and can never be archived, as a report among the others."""
    return LossReport(
        reporter=STREAM,
        kind=row.type,
        agent_id=row.subject,
        incarnation=row.incarnation,
        generation=row.generation,
        seq=row.seq,
        ts=row.ts,
    )


def unreadable_report(unreadable: Unreadable) -> LossReport:
    """An agent or worker of which nothing is left but a hash that cannot be read."""
    return LossReport(reporter=STREAM, kind="damaged", agent_id=unreadable.subject)


def find_lost(
    position: Position,
    first_seqs: Mapping[int, int],
    known: Collection[str],
    reports: Sequence[LossReport],
) -> list[LostCommand]:
    """What was acknowledged above the archive, what ran and is not recorded, what is void.

    `begins`: the first archived `seq` of each generation. One that a recovery began and did not get
    to open ends what counts of the generation that was lost. `known`: agents that are recorded, in
    whatever state: one that ran loses nothing that is not named otherwise.
    """

    def is_lost(report: LossReport) -> bool:
        if report.reporter == STREAM:
            return True
        if report.kind == AGENT_HELD:
            return report.agent_id not in known
        later = [first - 1 for of, first in first_seqs.items() if of > report.generation]
        return report.seq > min(later, default=position.seq)

    lost_reports = [one for one in reports if is_lost(one)]
    requested = {one.agent_id for one in lost_reports if one.kind in SPAWNED}
    found = [
        LostCommand(
            kind=one.kind,
            agent_id=one.agent_id,
            generation=one.generation,
            seq=one.seq,
            ts=one.ts,
            incarnation=one.incarnation,
            reporter=one.reporter,
            operation_id=one.operation_id,
        )
        for one in lost_reports
        if not (one.kind == AGENT_HELD and one.agent_id in requested)
    ]
    return sorted(found, key=lambda one: (one.seq, one.kind, one.agent_id))


def lost_pools(found: Sequence[LostCommand], known: Collection[str]) -> list[str]:
    """Pools that went with the catalogue, of what was lost of it."""
    created = {one.agent_id for one in found if one.kind in {CREATE_POOL, PoolCreated.type}}
    return sorted(created - set(known))
