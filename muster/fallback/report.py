"""What a hand-over did, for people, for the log, and for the alert."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from gateway.fallback import HandoverFailure, HandoverFailures, read_handover_failures
from muster.fallback.directory import Folder, Identity
from muster.fallback.inventory import Entry, Result
from muster.process.atomic_file import write_json

log = structlog.get_logger("muster.fallback")

NAME: Final = "report.json"
PRINTED_MAX: Final = 20


class Report(Struct, frozen=True, kw_only=True):
    """The agents of a fallback, with what became of each."""

    fallback: Identity
    entries: Sequence[Entry] = ()
    pools: Sequence[HandoverFailure] = ()
    """Pools of the fallback that the real log does not have, or has with other settings."""
    waiting: Sequence[HandoverFailure] = ()
    """What is left for the next start, and why."""

    def with_result(self, result: Result) -> list[Entry]:
        return [entry for entry in self.entries if entry.result is result]

    @property
    def done(self) -> bool:
        return not self.waiting

    @property
    def handover_failures(self) -> list[HandoverFailure]:
        agents = [_failure(entry) for entry in self.with_result(Result.REFUSED) if entry.alive]
        log_id = self.fallback.log_id
        return [replace(one, log_id=log_id) for one in (*agents, *self.pools, *self.waiting)]

    def lines(self) -> list[str]:
        """For the terminal: the numbers, and by name what was not handed over."""
        counts = {result: len(self.with_result(result)) for result in Result}
        summary = ", ".join(
            f"{counts[result]} {text}"
            for result, text in (
                (Result.HANDED_OVER, "handed over"),
                (Result.RECORDED, "recorded as ended"),
                (Result.REFUSED, "not handed over"),
                (Result.OPEN, "still to be handed over"),
            )
            if counts[result]
        )
        names = [f"  not handed over: {one.description}" for one in self.handover_failures]
        more = [f"  and {len(names) - PRINTED_MAX} more"] if len(names) > PRINTED_MAX else []
        first = f"change-over from the fallback for {self.fallback.real}: "
        return [first + (summary or "nothing lived in it"), *names[:PRINTED_MAX], *more]


def _failure(entry: Entry) -> HandoverFailure:
    return HandoverFailure(
        reason=entry.reason,
        pool_name=entry.pool_name,
        agent_id=entry.agent_id,
        project_id=entry.request.project_id,
        role_type=entry.request.role_type,
    )


def log_entries(entries: Iterable[Entry]) -> None:
    """A line for every agent that was answered."""
    for entry in entries:
        subject = {"agent_id": entry.agent_id, "pool": entry.pool_name}
        if entry.result is Result.REFUSED:
            log.warning("fallback.not_handed_over", **subject, reason=entry.reason)
        elif entry.result is not Result.OPEN:
            log.info("fallback.handed_over", **subject, result=entry.result.value)


def write(report: Report, folder: Folder) -> None:
    """The report into the fallback's folder."""
    write_json(folder.path / NAME, report)


def write_not_handed_over(report: Report, path: Path, where: Path) -> None:
    """Add this to what other fallbacks left, in place of what an earlier start wrote of it."""
    before = read_handover_failures(str(path))
    others = [
        one for one in (before.left if before else ()) if one.log_id != report.fallback.log_id
    ]
    left = [*others, *report.handover_failures]
    if not left:
        path.unlink(missing_ok=True)
        return
    content = HandoverFailures(since_ms=int(time.time() * 1000), left=left, report=str(where))
    write_json(path, content)
