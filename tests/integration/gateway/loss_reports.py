"""What a gateway reports of a log that is lost."""

from eventstore.recovery.loss_reports import read_reports
from tests.integration.gateway.stage import GatewayStage
from tests.integration.projector.stage import POOL
from tests.waiting import until


async def reported(stage: GatewayStage, commands: set[tuple[str, str]], pool: str = POOL) -> None:
    """Wait until the gateway has reported these commands: kind, and agent or pool."""

    async def complete() -> bool:
        found = await read_reports(stage.log, pool)
        return commands <= {(one.kind, one.agent_id) for one in found}

    await until(complete, timeout=10)
