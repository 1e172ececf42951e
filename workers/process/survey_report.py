"""What a worker reports when its log is lost: which agents it runs.

The recovery compares this with the archive. The worker itself goes on until its lease lapses; in
the recovered log none of its agents is its own.
"""

from collections.abc import Iterable

import structlog

from eventstore.errors import LogError
from eventstore.log.pool_log import PoolLog
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, write_reports
from workers.runtime.agent_run import AgentRun

log = structlog.get_logger("muster.survey_report")


async def report_running_agents(
    pool_log: PoolLog, worker_id: str, runs: Iterable[AgentRun]
) -> None:
    """Report every agent that runs here. What cannot be written is only logged."""
    generation, ts = pool_log.high_water_mark()[0], pool_log.now_ms()
    reports = [
        LossReport(
            reporter=f"worker:{worker_id}",
            kind=AGENT_HELD,
            agent_id=run.agent_id,
            incarnation=run.incarnation,
            generation=generation,
            seq=run.state.claim_seq,
            ts=ts,
        )
        for run in runs
    ]
    log.error("log.lost", pool=pool_log.pool, worker_id=worker_id, agents=len(reports))
    try:
        await write_reports(pool_log.log, pool_log.pool, reports)
    except LogError as error:
        log.warning("log.report_failed", pool=pool_log.pool, error=str(error))
