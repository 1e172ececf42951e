"""A primary dies, or is cut off, and its replica takes over: what was lost is found and reported.

Clients keep one address, as they do behind a load balancer. Nothing here is imitated: primary and
replica are servers, and the writes that are lost are lost by Redis.
"""

import asyncio

import pytest
import redis
from msgspec.structs import replace

from eventstore.connection.clients import Client
from eventstore.errors import LogUnreachable, NotEnoughReplicas, RolledBack
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.recovery.loss_reports import read_reports
from tests.crossing import crossing
from tests.integration.gateway.stage import AGENTS, QUICK, asked, gateway_stage, logged
from tests.integration.projector.recovering import recovered
from tests.integration.projector.stage import POOL
from tests.pools import TestPool, raw_events
from tests.replication import Replication
from tests.waiting import until
from workers.host.processes import boot_seconds
from workers.process.lease import Hooks, Lease
from workers.process.options import WorkerOptions

LEVEL, PENDING = "Muster-Durability", "Muster-Durability-Pending"
LIMITS = type(QUICK)(durability_seconds=5.0, catch_up_seconds=0.2, wait_default=0.2)


def views(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'v.db'}"


async def spawn(stage, level: str = "accepted"):
    headers = {"Prefer": "respond-async", LEVEL: level}
    return await stage.ask("POST", f"{AGENTS}/spawn", json=asked(), headers=headers)


def exists(url: str, answer) -> bool:
    """Whether a server has the agent that an answer names."""
    with redis.Redis.from_url(url) as client:
        return bool(client.exists(f"agent:{{{POOL}}}:{answer.json['agent_id']}"))


async def test_a_failover_retains_what_was_replicated_and_reports_what_was_lost(
    replication: Replication, tmp_path, no_leases
):
    """The primary goes on without its replica and is killed; the replica lacks what it missed."""
    old, new = replication.primary, replication.replica
    async with crossing(old.port) as address:
        stages = gateway_stage(address.url, views(tmp_path), limits=LIMITS)
        async with stages as stage:
            quick = {"config": {"lease_seconds": 1.0, "renew_seconds": 0.3}}
            await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=quick)
            replicated = await spawn(stage, "replicated")
            assert replicated.headers[LEVEL] == "replicated"
            replication.part()
            archived = await spawn(stage)
            stage.backend.limits = replace(LIMITS, durability_seconds=0.5)  # waited in vain
            pending = await spawn(stage, "replicated")
            stage.backend.limits = LIMITS
            assert (pending.status, pending.headers[LEVEL]) == (202, "accepted")
            assert pending.headers[PENDING] == 'replicated; reason="0 of 1 replicas have it"'
            await stage.stage.settle()
            await stage.projector.stop()
            gone = await spawn(stage)
            old.kill9()
            replication.promote()
            address.lead_to(new.port)
            address.cut()
            there = [exists(new.url, answer) for answer in (replicated, archived, pending, gone)]
            assert there == [True, False, False, False]

            # The gateway acknowledged more than this server has: nothing is written to it.
            refused = await until(lambda: refusal(stage))
            assert (refused.status, refused.kind) == (503, "log-rolled-back")
            assert "generation 1, seq 4 was acknowledged" in refused.json["detail"]
            assert [event["type"] for event in raw_events(new.url)] == ["agent.requested"]
            for answer in (replicated, archived, pending):
                read = await stage.get(f"{AGENTS}/{answer.json['agent_id']}")
                assert read.status == 200, "reads go on"

            # What is archived comes back, and what is not is named.
            await until(lambda: read_reports(stage.log, POOL))
            done = (await recovered(stage.stage))[POOL]
            assert [one.agent_id for one in done.unsaved] == [gone.json["agent_id"]]
            there = [exists(new.url, answer) for answer in (replicated, archived, pending, gone)]
            assert there == [True, True, True, False]
            assert (await until(lambda: acceptance(stage))).status == 202


async def refusal(stage):
    """The first answer that is no outage any more."""
    answer = await spawn(stage)
    return answer if answer.kind != "redis-unreachable" else None


async def acceptance(stage):
    answer = await spawn(stage)
    return answer if answer.status == 202 else None


async def test_a_command_whose_position_another_event_has_is_reported_as_lost(
    replication: Replication, tmp_path
):
    """The log grew again past what was lost, so only the command itself shows it."""
    old, new = replication.primary, replication.replica
    limits = type(QUICK)(durability_seconds=10.0, catch_up_seconds=0.2)
    async with crossing(old.port) as address:
        stages = gateway_stage(address.url, views(tmp_path), projecting=False, limits=limits)
        async with logged() as lines, stages as stage:
            await until(replication.in_step)
            replication.part()
            waiting = asyncio.create_task(spawn(stage, "archived"))
            await until(lambda: raw_events(old.url))
            old.kill9()
            replication.promote()
            other = Client(new.url)  # a process that knows nothing of what was acknowledged
            pool = TestPool(Log(other, Keys()), POOL)
            pool.pool = stage.pool.pool
            for _ in range(3):
                await pool.spawn()
            await other.aclose()
            address.lead_to(new.port)
            address.cut()
            await stage.projector.start()
            answer = await waiting
            assert (answer.status, answer.kind) == (503, "command-lost")
            assert f"seq 1 of pool '{POOL}'" in answer.json["detail"]
    assert [line["seq"] for line in lines if line["event"] == "gateway.command_lost"] == [1]


async def _says_that_no_writes_are_taken(stage) -> bool:
    await stage.backend.capabilities.refresh()
    reasons = " ".join((await stage.get("/readyz")).json.get("reasons", ()))
    alerts = (await stage.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
    named = "redis-not-enough-replicas" in [alert["name"] for alert in alerts]
    return named and "Redis accepts no writes: 0 replicas" in reasons


async def test_an_outdated_primary_accepts_no_writes_when_it_returns(
    replication: Replication,
):
    """Split brain: it has writes that no other server has, and lacks those made since."""
    old, new = replication.primary, replication.replica
    async with crossing(old.port) as address:
        client = Client(address.url)
        try:
            log = Log(client, Keys())
            pool = TestPool(log, POOL)
            await log.create_catalogue()
            await log.initialise(POOL)
            await pool.spawn()
            await until(replication.in_step)
            replication.part()
            other = Client(old.url)
            await TestPool(Log(other, Keys()), POOL).spawn()  # a process that saw only the old one
            await other.aclose()
            replication.promote()
            address.lead_to(new.port)
            address.cut()
            with pytest.raises(LogUnreachable):
                await log.live(POOL)
            for _ in range(3):
                assert (await pool.spawn()).outcome is Outcome.DONE
            address.lead_to(old.port)
            address.cut()
            with pytest.raises(LogUnreachable):
                await log.live(POOL)
            with pytest.raises(RolledBack, match="seq 2, but generation 1, seq 4 was ackn"):
                await pool.spawn()
            assert len(raw_events(old.url)) == 2
        finally:
            await client.aclose()


async def test_a_primary_that_became_a_replica_is_left_for_the_new_one(
    replication: Replication, tmp_path
):
    """READONLY passes: a 503 that says so, and the next command goes where the address leads."""
    async with crossing(replication.primary.port) as address:
        stages = gateway_stage(address.url, views(tmp_path), limits=LIMITS)
        async with logged() as lines, stages as stage:
            assert (await spawn(stage, "replicated")).headers[LEVEL] == "replicated"
            await until(replication.in_step)
            replication.promote()
            replication.demote()
            address.lead_to(replication.replica.port)  # connections that stand are not cut
            refused = await spawn(stage)
            assert (refused.status, refused.kind) == (503, "redis-unreachable")
            assert "read only replica" in refused.json["detail"]
            assert refused.headers["Retry-After"] == "2"

            async def accepted() -> bool:
                return (await spawn(stage)).status == 202

            await until(accepted)
            assert len(raw_events(replication.replica.url)) >= 2
    assert [line for line in lines if line["event"] == "gateway.request_failed"] == []


async def test_a_lease_is_renewed_at_the_new_primary(replication: Replication):
    """A worker retains its lease through an orderly failover, and its agents run on."""
    async with crossing(replication.primary.port) as address:
        client = Client(address.url)
        log = Log(client, Keys())
        await log.create_catalogue()
        await log.initialise(POOL)
        fence = await TestPool(log, POOL).worker("w1")
        lost: list[str] = []
        renewed: list[object] = []
        options = WorkerOptions(
            redis_url=address.url,
            pool_name=POOL,
            worker_id=fence.worker_id,
            host="h",
            config=PoolConfig(lease_seconds=30.0, renew_seconds=0.1),
            exits=False,
        )
        hooks = Hooks(
            high_water_mark=lambda: log.high_water_mark(POOL),
            busy=lambda: False,
            snapshot=lambda _: b"{}",
            agent_of=lambda _: "",
            renewed=renewed.append,
            lost=lost.append,
            log_unavailable=lambda: None,
            orphaned=lambda: None,
        )
        lease = Lease(options, fence.epoch, hooks, granted_at=boot_seconds())
        await lease.start()
        try:
            await until(lambda: len(renewed) >= 2)
            with replication.primary.client() as plain:  # the worker is known there too
                plain.set("behind", "it")
                assert plain.wait(1, 5000) == 1
            replication.promote()
            address.lead_to(replication.replica.port)  # connections that stand are not cut
            replication.demote()
            so_far = len(renewed)
            await until(lambda: len(renewed) >= so_far + 2)
            assert lost == []
        finally:
            await lease.stop()
            await client.aclose()


async def test_without_enough_replicas_nothing_is_written_and_the_answer_says_so(
    replication: Replication, tmp_path
):
    """min-replicas-to-write: a primary that was cut off takes no writes that would be lost."""
    replication.configure(min_replicas_to_write="1")
    url = replication.primary.url
    async with gateway_stage(url, views(tmp_path), limits=LIMITS) as stage:
        fence = await stage.worker()
        replication.part()
        before = len(raw_events(url))
        refused = await spawn(stage)
        assert (refused.status, refused.kind) == (503, "not-enough-replicas")
        assert refused.headers["Retry-After"] == "2"
        body = {"role_type": "tester", "pool_name": "second"}
        pool = await stage.ask("POST", f"{AGENTS}/pools", json=body)
        assert (pool.status, pool.kind) == (503, "not-enough-replicas")
        assert len(raw_events(url)) == before
        # A lease is a write too: a worker that cannot renew loses it, and its agents stop.
        with pytest.raises(NotEnoughReplicas):
            await stage.log.claim(POOL, fence, 1)
        assert (await stage.log.survey(POOL)).waiting == 0, "looking still works"
        await until(lambda: _says_that_no_writes_are_taken(stage))
        replication.join()
        answer = await spawn(stage, "replicated")
        assert answer.headers[LEVEL] == "replicated"
