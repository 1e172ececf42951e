"""A gateway whose log is lost: it refuses, reads on, reports what it acknowledged, and resumes."""

import pytest
import redis

from eventstore.salvage import read_reports
from projector.recovery import Recovery
from tests.integration.gateway_stage import AGENTS, GatewayStage, gateway_stage
from tests.integration.projector_stage import POOL
from tests.integration.test_recovery import recovered
from tests.waiting import until


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: Recovery) -> None:
        pass

    monkeypatch.setattr(Recovery, "_wait_out", at_once)


@pytest.fixture
def views_url(tmp_path: object) -> str:
    return f"sqlite:///{tmp_path}/views.db"


def wipe(shown: GatewayStage) -> None:
    with redis.Redis.from_url(shown.stage.redis_url) as client:
        client.flushall()


async def test_commands_are_refused_and_reads_go_on(redis_url: str, views_url: str) -> None:
    async with gateway_stage(redis_url, views_url) as shown:
        fence = await shown.worker()
        await shown.pending()
        (agent_id,) = await shown.run(fence)
        wipe(shown)
        refused = await shown.spawn()
        assert (refused.status, refused.kind) == (503, "log-missing")
        assert int(refused.headers["Retry-After"]) > 0
        ending = await shown.ask(
            "POST", f"{AGENTS}/terminate", json={"pool_name": POOL, "agent_id": agent_id}
        )
        assert ending.status == 503
        found = await shown.get(f"{AGENTS}/{agent_id}")
        assert (found.status, found.json["status"]) == (200, "running")


async def test_what_was_acknowledged_and_not_archived_is_reported(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url) as shown:
        archived = await shown.pending()
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        lost = [await shown.pending() for _ in range(3)]
        wipe(shown)

        async def reported() -> list[str]:
            found = await read_reports(shown.log, POOL)
            return [one.agent_id for one in found if one.kind == "spawn"]

        async def all_reported() -> bool:
            return set(lost) <= set(await reported())

        await until(all_reported, timeout=10)
        done = (await recovered(shown.stage))[POOL]
        assert [one.agent_id for one in done.unsaved] == lost
        assert archived not in await reported() or all(
            one.agent_id != archived for one in done.unsaved
        )


async def test_what_could_not_be_reported_in_time_is_named_afterwards(
    redis_url: str, views_url: str
) -> None:
    async with gateway_stage(redis_url, views_url) as shown:
        await shown.stage.settle(POOL)
        await shown.projector.stop()
        lost = await shown.pending()
        wipe(shown)
        await recovered(shown.stage)
        after = await shown.pending()
        await until(lambda: shown.backend.ledger.unsaved, timeout=10)
        assert [one.agent_id for one in shown.backend.ledger.unsaved] == [lost]
        alerts = (await shown.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        (alert,) = [one for one in alerts if one["name"] == "commands-unsaved"]
        assert lost in alert["message"]
        assert after not in alert["message"]


async def test_a_gateway_that_starts_on_an_emptied_redis_knows_its_floor_from_the_archive(
    redis_url: str, views_url: str
) -> None:
    """It must not take spawns into a log that is older than the archive."""
    async with gateway_stage(redis_url, views_url) as shown:
        with redis.Redis.from_url(redis_url) as client:
            dumps = {key: client.dump(key) for key in client.keys("*")}
            await shown.pending()
            await shown.stage.settle(POOL)
            client.flushall()
            for key, dump in dumps.items():
                client.restore(key, 0, dump)
        async with _another(shown) as second:
            refused = await second.spawn()
            assert (refused.status, refused.kind) == (503, "log-rolled-back")


def _another(shown: GatewayStage):
    from contextlib import asynccontextmanager

    from gateway.service import Gateway
    from tests.integration.gateway_stage import options

    @asynccontextmanager
    async def opened():
        gateway = Gateway(options(shown.stage.redis_url, shown.stage.database_url))
        await gateway.start()
        other = GatewayStage(shown.stage, gateway, shown.pool, shown.projector)
        try:
            yield other
        finally:
            await other.session.close()
            await gateway.stop()

    return opened()
