"""Commands on workers over HTTP."""

from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL

WORKERS = f"{AGENTS}/workers"


async def test_a_worker_is_drained_once_with_a_reason(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.stage.settle(POOL)
    path = f"{WORKERS}/{fence.worker_id}/drain"
    answer = await stage.ask("POST", path, json={"reason": "the kernel is updated"})
    row = answer.json
    assert (answer.status, row["status"], row["reason"]) == (
        202, "draining", "the kernel is updated",
    )  # fmt: skip
    again = await stage.ask("POST", path)
    assert (again.status, again.json["reason"]) == (202, "the kernel is updated")
    assert (await stage.events()).count("worker.draining") == 1
    inbox = f"pool:{{{POOL}}}:inbox:{fence.worker_id}"
    assert await stage.log.client.execute_command("LRANGE", inbox, 0, -1) == [b"drain"]


async def test_a_worker_that_is_none_or_has_not_started_is_not_drained(stage: GatewayStage) -> None:
    unknown = await stage.ask("POST", f"{WORKERS}/01a2b3c4-0000-7000-8000-000000000000/drain")
    assert (unknown.status, unknown.kind) == (404, "worker-not-found")
    await stage.pool.order("ordered")
    await stage.stage.settle(POOL)
    early = await stage.ask("POST", f"{WORKERS}/ordered/drain")
    assert (early.status, early.kind) == (409, "worker-not-started")
    refused = await stage.ask("POST", f"{WORKERS}/ordered/drain", json={"reason": ""})
    assert (refused.status, refused.fields) == (400, ["reason"])
