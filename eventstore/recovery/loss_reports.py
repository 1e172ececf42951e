"""Loss reports: what gateways and workers know of a log that was lost, for its recovery.

A gateway reports the commands that it acknowledged and that are not archived, and a worker the
agents that it runs, as soon as they find the log missing, halted or behind. The recovery reads the
reports after all leases have expired, and names each lost command.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from eventstore.connection.calls import ask, translated_errors
from eventstore.log.log import Log
from eventstore.log.replies import fields_of

REPORTS_PART: Final = "salvage"
"""The stream of a log's reports. It expires; a recovery does not delete it before the end."""
REPORTS_MAX: Final = 20_000
"""About how many reports of one log are stored; the oldest are removed first."""
RETENTION_MS: Final = 7 * 86_400_000
AGENT_HELD: Final = "holds"
"""The kind of a report that is about a running agent and not about a command."""
CREATE_POOL: Final = "create_pool"
"""The kind of a command without which its pool cannot be recovered."""


class LossReport(Struct, frozen=True, kw_only=True):
    """One acknowledged command, or one running agent (`kind` is `holds`)."""

    reporter: str
    kind: str
    agent_id: str = ""
    """The agent's id; for a command on a pool the pool's name."""
    incarnation: int = 0
    generation: int = 0
    seq: int = 0
    """Of the command's last event, or of the agent's claim."""
    ts: int = 0
    """Log time of the acknowledgement."""
    operation_id: str = ""
    save: int = 0
    """Of the state that the agent saved last, as far as the reporter knows."""
    sha256: str = ""


async def write_reports(log: Log, pool: str, reports: Iterable[LossReport]) -> None:
    """Write reports. Raises `LogUnreachable`, `LogError`."""
    key = log.keys.pool(pool, REPORTS_PART)
    with translated_errors("reports cannot be written"):
        for entry in reports:
            fields = [str(item) for pair in asdict(entry).items() for item in pair]
            await log.client.execute_command("XADD", key, "MAXLEN", "~", REPORTS_MAX, "*", *fields)
        await log.client.execute_command("PEXPIRE", key, RETENTION_MS)


async def read_reports(log: Log, pool: str) -> list[LossReport]:
    """All distinct reports on a log, by seq. Raises `LogUnreachable`, `LogError`."""
    command = ("XRANGE", log.keys.pool(pool, REPORTS_PART), "-", "+")
    entries = await ask(log.client, *command, doing="reports cannot be read")
    reports = [msgspec.convert(fields_of(flat), LossReport, strict=False) for _, flat in entries]
    found = {
        (one.kind, one.agent_id, one.incarnation, one.generation, one.seq): one for one in reports
    }
    return sorted(found.values(), key=lambda one: (one.generation, one.seq))


async def delete_reports(log: Log, pool: str) -> None:
    """Delete the reports of a log that need not be recovered. (A recovery deletes its own.)

    Raises `LogUnreachable`, `LogError`.
    """
    key = log.keys.pool(pool, REPORTS_PART)
    await ask(log.client, "DEL", key, doing="reports cannot be deleted")
