"""What a recovered log does not have, though it was acknowledged, ran, or was in the stream."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import Unreadable
from eventstore.language.agents import shared_fields
from eventstore.language.events import AgentRequested, AgentSaved, PoolCreated
from eventstore.recovery.loss_reports import AGENT_HELD, CREATE_POOL, LossReport
from projector.store.rows import EventRow, Position

STREAM: Final = "stream"
"""The reporter of what was in the lost log itself."""
SPAWNED: Final = {"spawn", AgentRequested.type}
"""Creates an agent. Where this is named as lost, it is not also named that the agent ran."""


class LostCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command that was acknowledged, or an agent that ran, of which the archive has nothing."""

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
    """Where it was not in the recovered log, but in a pool that was lost with the catalogue."""


def unarchived_event_report(row: EventRow) -> LossReport:
    """For an event that is in the stream and can never be archived."""
    report = LossReport(
        reporter=STREAM, kind=row.type, agent_id=row.subject, **shared_fields(row, LossReport)
    )
    if row.type != AgentSaved.type:
        return report
    saved = msgspec.json.decode(row.data, type=AgentSaved)
    return replace(report, save=saved.save, sha256=saved.sha256)


def unreadable_report(unreadable: Unreadable) -> LossReport:
    """For an agent or worker of which only an unreadable hash is left."""
    return LossReport(reporter=STREAM, kind="damaged", agent_id=unreadable.subject)


def find_lost(
    position: Position,
    first_seqs: Mapping[int, int],
    known: Collection[str],
    reports: Sequence[LossReport],
) -> list[LostCommand]:
    """Acknowledged commands above the archive, agents that ran but are not recorded, void events.

    `first_seqs`: the first archived `seq` of each generation; a later generation, even if its
    recovery never opened the log, ends what is valid of an earlier one. `known`: agents that are
    recorded in any state; for these, that they ran is no loss.
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
        LostCommand(**shared_fields(one, LostCommand))
        for one in lost_reports
        if not (one.kind == AGENT_HELD and one.agent_id in requested)
    ]
    return sorted(found, key=lambda one: (one.seq, one.kind, one.agent_id))


def lost_saves(reports: Iterable[LossReport]) -> dict[str, LossReport]:
    """By agent: the report that knows its last state."""
    latest: dict[str, LossReport] = {}
    for one in reports:
        if one.save > (latest[one.agent_id].save if one.agent_id in latest else 0):
            latest[one.agent_id] = one
    return latest


def lost_pools(found: Sequence[LostCommand], known: Collection[str]) -> list[str]:
    """Pools whose creation was lost with the catalogue."""
    created = {one.agent_id for one in found if one.kind in {CREATE_POOL, PoolCreated.type}}
    return sorted(created - set(known))
