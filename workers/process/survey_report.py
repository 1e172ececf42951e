"""What a worker says of itself when its log is lost: which agents it runs.

Whoever recovers the log compares this with the archive. The worker itself goes on until its lease
lapses; nothing that it holds is its own in the recovered log.
"""

from collections.abc import Iterable

import structlog

from eventstore.errors import LogError
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import HOLDS, Report, report
from workers.runtime.agent_run import Running

log = structlog.get_logger("muster.reporting")


async def report_holdings(
    events: Log, pool: str, worker_id: str, running: Iterable[Running]
) -> None:
    """Report every agent that runs here. What cannot be written is only logged."""
    generation, ts = events.floor(pool)[0], events.now_ms(pool)
    reports = [
        Report(
            reporter=f"worker:{worker_id}",
            kind=HOLDS,
            agent_id=one.agent_id,
            incarnation=one.incarnation,
            generation=generation,
            seq=one.state.claim_seq,
            ts=ts,
        )
        for one in running
    ]
    log.error("log.lost", pool=pool, worker_id=worker_id, agents=len(reports))
    try:
        await report(events, pool, reports)
    except LogError as error:
        log.warning("log.report_failed", pool=pool, error=str(error))
