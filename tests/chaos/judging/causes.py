"""What an event follows from is in the same log, and before it.

Events that start a chain have no cause: requests, decisions on what was counted, hosts that join, a
recovery. A log that an older version began has none at first either, and nor has the first event of
what was last changed by that version.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.chaos.judging.entries import Entry
from tests.chaos.judging.offences import Offence

STARTS: Final = frozenset(
    {
        "agent.requested",
        "agent.termination_requested",
        "agent.restart_requested",
        "pool.created",
        "pool.changed",
        "pool.replacement_started",
        "pool.deleted",
        "pool.removed",
        "pool.scaling_decided",
        "pool.shadow_decided",
        "pool.consolidation_requested",
        "pool.archive_pruned",
        "token.created",
        "token.rotated",
        "token.revoked",
        "host.joined",
        "log.recovered",
    }
)
UNREADABLE: Final = "its hash cannot be read"
"""The last event of such a worker is not known."""


def judge(entries: Sequence[Entry]) -> Iterator[Offence]:
    """Of one log, from its first event on."""
    later = [entry for entry in entries if entry.type not in STARTS]
    caused = next((entry for entry in later if entry.causation_id), None)
    since = (0, 0) if caused is None or caused is later[0] else _order(caused)
    before: set[str] = set()
    previous: dict[str, Entry] = {}
    for entry in entries:
        cause = entry.causation_id
        if cause and cause not in before:
            yield entry.offence(6, f"it follows from {cause}, which is not before it")
        known = _order(previous.get(entry.subject, entry)) >= since
        if not cause and caused is not None and known and _has_cause(entry):
            yield entry.offence(6, "it does not name the event that it follows from")
        before.add(entry.event_id)
        previous[entry.subject] = entry


def _order(entry: Entry) -> tuple[int, int]:
    return entry.generation, entry.seq


def _has_cause(entry: Entry) -> bool:
    if entry.type == "worker.requested":  # by a decision, or by a test
        return entry.actor.startswith("supervisor:")
    reason = str(entry.body.get("reason", ""))
    return entry.type not in STARTS and not reason.startswith(UNREADABLE)
