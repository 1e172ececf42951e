"""The log's protocols on real servers: Valkey, and the oldest Redis that Muster supports."""

import asyncio

import pytest
import redis

from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import (
    Halted,
    LogMissing,
    LogUnreachable,
    MemoryExhausted,
    OutcomeUnknown,
    RolledBack,
    ServerUnsuitable,
)
from eventstore.keys import Keys
from eventstore.language import agent_commands, agents, workers
from eventstore.language.agent_commands import End, Fail, MarkLost, Started, Terminate
from eventstore.language.agents import Status
from eventstore.language.events import Error
from eventstore.language.pool_config import RestartPolicy
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.steps import clauses
from eventstore.steps.clauses import Leads, SetMeta
from eventstore.steps.hashes import AGENT
from eventstore.steps.step import Fence
from tests.conftest import MakeServer
from tests.pools import ORIGIN, TestPool, data, open_pool, raw_events, types

POOL = "developer_pool"


async def test_a_spawn_is_one_event_one_command_and_one_hash(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn(labels={"team": "core"})
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        fields = client.hgetall(f"agent:{{{POOL}}}:{submitted.agent_id}")
        assert (fields["status"], fields["project_id"], fields["version"]) == ("pending", "p", "1")
        assert client.smembers(f"pool:{{{POOL}}}:agents") == {submitted.agent_id}
        assert client.xlen(f"pool:{{{POOL}}}:commands") == 1
    [event] = raw_events(any_redis_url)
    assert list(event) == [
        "type", "version", "seq", "event_id", "subject", "incarnation", "worker_id", "epoch",
        "correlation_id", "causation_id", "traceparent", "actor", "ts", "data",
    ]  # fmt: skip
    assert (event["type"], event["seq"], event["subject"]) == (
        "agent.requested",
        "1",
        submitted.agent_id,
    )
    assert data(event)["labels"] == {"team": "core"}


async def test_a_repeated_operation_is_answered_with_the_first(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        first = await pool.spawn(key="k", digest="d")
        again = await pool.spawn(key="k", digest="d")
        other = await pool.spawn(key="k", digest="e")
    assert (again.outcome, again.agent_id, again.same) == (Outcome.KNOWN, first.agent_id, True)
    assert (other.outcome, other.agent_id, other.same) == (Outcome.KNOWN, first.agent_id, False)
    assert types(any_redis_url) == ["agent.requested"]


async def test_a_full_backlog_refuses_spawns_and_writes_nothing(any_redis_url: str) -> None:
    async with open_pool(any_redis_url, backlog_limit=2) as pool:
        outcomes = [(await pool.spawn()).outcome for _ in range(4)]
    assert outcomes == [Outcome.DONE, Outcome.DONE, Outcome.FULL, Outcome.FULL]
    assert types(any_redis_url) == ["agent.requested"] * 2


async def test_workers_that_claim_at_once_never_get_more_than_their_slots(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(50)))
        fences = [await pool.worker(f"w{n}", slots=7) for n in range(6)]
        claims = await asyncio.gather(*(pool.claim(f, 10) for f in fences for _ in range(3)))
        survey = await pool.log.survey(POOL)
    claimed = [entry.agent.agent_id for claim in claims for entry in claim]
    assert len(claimed) == len(set(claimed)) == 42
    assert [observed.agent_count for observed in survey.workers] == [7] * 6
    assert (survey.waiting, survey.free) == (8, 0)


async def test_after_a_lost_reply_no_agent_is_forgotten(any_redis_url: str) -> None:
    """The worker claims with `include_unsettled` and gets the agents of before, too."""
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(3)))
        fence = await pool.worker("w")
        lost = await pool.claim(fence)
        assert await pool.claim(fence) == []
        repeated = await pool.claim(fence, again=True)
        assert {c.agent.agent_id for c in repeated} == {c.agent.agent_id for c in lost}
        survey = await pool.log.survey(POOL)
    assert survey.workers[0].agent_count == 3


async def test_a_worker_that_is_fenced_draining_or_full_claims_nothing(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(5)))
        full = await pool.worker("full", slots=1)
        assert len(await pool.claim(full)) == 1
        assert await pool.claim(full) == []
        draining = await pool.worker("draining")
        await pool.log.act_on_worker(POOL, "draining", workers.Drain(reason="t"), ORIGIN)
        assert await pool.claim(draining) == []
        fenced = await pool.worker("fenced")
        await pool.fence("fenced")
        assert await pool.log.claim(POOL, fenced, 5) == (Outcome.FENCED, [])
        wrong = Fence("full", full.epoch + 1)
        assert await pool.log.claim(POOL, wrong, 5) == (Outcome.FENCED, [])


async def test_the_claim_and_the_fold_agree(any_redis_url: str) -> None:
    """The claim script writes the same hash as `evolve` would."""
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence)
        found = await pool.log.agent(POOL, submitted.agent_id)
    assert submitted.agent is not None
    claim = next(e for e in raw_events(any_redis_url) if e["type"] == "agent.claimed")
    from eventstore.language.events import AgentClaimed, Event

    event = Event(
        body=AgentClaimed(),
        event_id=claim["event_id"],
        subject=submitted.agent_id,
        worker_id="w",
        epoch=fence.epoch,
        seq=int(claim["seq"]),
    )
    folded = agents.evolve(submitted.agent, event, POOL)
    assert found is not None
    to_hash = AGENT.to_hash
    assert to_hash(found) == to_hash(folded) == to_hash(claimed.agent)


async def test_a_fenced_worker_writes_nothing_to_the_log(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence)
        await pool.fence("w")
        before = raw_events(any_redis_url)
        for command in (Started(), End(reason="completed"), agent_commands.Release(reason="x")):
            acted = await pool.log.act(
                POOL, claimed.agent.agent_id, command, ORIGIN, fence=fence, incarnation=1
            )
            assert acted.outcome is Outcome.FENCED
        assert raw_events(any_redis_url) == before


async def test_a_lost_workers_agents_are_queued_once_more_and_only_once(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        first = await pool.worker("w1")
        await pool.claim(first)
        reaper = await pool.fence("w1")
        lose = MarkLost(worker_id="w1", reason="killed", now_ms=1)
        for _ in range(2):  # the second finds nothing to do
            await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        second = await pool.worker("w2")
        [claimed] = await pool.claim(second)
        assert (claimed.agent.agent_id, claimed.agent.incarnation) == (submitted.agent_id, 2)
        assert await pool.claim(second) == []
    assert types(any_redis_url).count("agent.lost") == 1


async def test_a_slow_reaper_releases_no_agent_of_the_next_worker(any_redis_url: str) -> None:
    """Two supervisors reap the same lost worker; the second does so after a new claim."""
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        await pool.claim(await pool.worker("w1"))
        reaper = await pool.fence("w1")
        lose = MarkLost(worker_id="w1", reason="killed", now_ms=1)
        await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        second = await pool.worker("w2")
        await pool.claim(second)
        late = await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        assert late.outcome is Outcome.ALREADY
        agent = await pool.log.agent(POOL, submitted.agent_id)
    assert agent is not None
    assert (agent.worker_id, agent.incarnation) == ("w2", 2)


async def test_the_end_of_a_waiting_agent_deletes_its_command(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        acted = await pool.log.act(POOL, submitted.agent_id, Terminate(), ORIGIN)
        assert acted.agent is not None
        assert acted.agent.status is Status.TERMINATED
        survey = await pool.log.survey(POOL)
        assert (survey.waiting, survey.live) == (0, 0)
    with redis.Redis.from_url(any_redis_url) as client:
        assert client.xlen(f"pool:{{{POOL}}}:commands") == 0
        assert client.pttl(f"agent:{{{POOL}}}:{submitted.agent_id}") > 0


async def test_a_worker_stops_only_when_it_has_no_agents(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence)
        agent_id = claimed.agent.agent_id
        stop = workers.StopWorker(reason="t")
        held = await pool.log.act_on_worker(
            POOL, "w", stop, ORIGIN, checks=[clauses.LeaseNotRenewed("w", 0)]
        )
        assert held.outcome is Outcome.CONFLICT
        await pool.log.act(POOL, agent_id, Started(), ORIGIN, fence=fence)
        await pool.log.act(POOL, agent_id, End(reason="completed"), ORIGIN, fence=fence)
        await pool.log.act_on_worker(POOL, "w", workers.Drain(reason="t"), ORIGIN)
        stopped = await pool.log.act_on_worker(POOL, "w", stop, ORIGIN)
        assert stopped.outcome is Outcome.DONE
        assert (await pool.log.survey(POOL)).workers == ()
    numbers = [int(event["seq"]) for event in raw_events(any_redis_url)]
    assert numbers == list(range(1, len(numbers) + 1))
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        assert client.xinfo_consumers(f"pool:{{{POOL}}}:commands", "workers") == []
        assert client.xpending(f"pool:{{{POOL}}}:commands", "workers")["pending"] == 0


async def test_a_crash_waits_in_due_and_counts_as_load(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        await pool.claim(fence)
        crash = Fail(
            during="start",
            error=Error(type="ValueError"),
            now_ms=pool.log.now_ms(POOL),
            policy=RestartPolicy(backoff_min_ms=60_000),
        )
        await pool.log.act(POOL, submitted.agent_id, crash, ORIGIN, fence=fence)
        survey = await pool.log.survey(POOL)
        assert (survey.restarting, survey.waiting, survey.free) == (1, 0, 10)
        assert survey.due[0][0] == submitted.agent_id
        await pool.log.act(POOL, submitted.agent_id, agent_commands.Restart(), ORIGIN)
        survey = await pool.log.survey(POOL)
        assert (survey.restarting, survey.waiting) == (0, 1)


async def test_the_log_is_dense_and_its_time_never_goes_back(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        fences = [await pool.worker(f"w{n}") for n in range(3)]
        await asyncio.gather(*(pool.spawn() for _ in range(20)))
        await asyncio.gather(*(pool.claim(fence) for fence in fences))
    events = raw_events(any_redis_url)
    assert [int(event["seq"]) for event in events] == list(range(1, len(events) + 1))
    times = [int(event["ts"]) for event in events]
    assert times == sorted(times)


async def test_a_log_below_the_high_water_mark_is_refused(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        pool.log.raise_high_water_mark(POOL, 1, 5)
        with pytest.raises(RolledBack, match="seq 5 was acknowledged"):
            await pool.spawn()
        assert types(any_redis_url) == ["agent.requested"]


async def test_a_log_found_below_it_is_halted_for_all_processes(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        pool.log.raise_high_water_mark(POOL, 1, 5)
        with pytest.raises(RolledBack):
            await pool.spawn()
        other = TestPool(Log(pool.log.client, Keys()))
        with pytest.raises(Halted, match="rolled back to generation 1, seq 1"):
            await other.spawn()
        with pytest.raises(Halted):
            await other.log.survey(POOL)
        assert types(any_redis_url) == ["agent.requested"]


async def test_a_lost_log_is_missing_and_not_created_again(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        with redis.Redis.from_url(any_redis_url) as client:
            client.delete(f"pool:{{{POOL}}}:events")
            with pytest.raises(LogMissing):
                await pool.spawn()
            await pool.log.initialise(POOL)
            with pytest.raises(LogMissing):
                await pool.spawn()
            client.flushall()
            with pytest.raises(LogMissing):
                await pool.log.initialise(POOL)
            with pytest.raises(LogMissing):
                await pool.spawn()
            assert client.keys("*") == []


async def test_initialising_again_changes_nothing(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        await pool.log.initialise(POOL)
        await pool.log.create_catalogue()
        head = await pool.log.head(POOL)
        assert (head.generation, head.seq) == (1, 1)


async def test_at_the_memory_limit_only_spawns_are_refused(redis_server: MakeServer) -> None:
    server = redis_server()
    async with open_pool(server.url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        with server.client() as client:
            client.config_set("maxmemory", "1mb")  # less than it uses
        with pytest.raises(MemoryExhausted):
            await pool.spawn()
        assert len(await pool.claim(fence)) == 1
        acted = await pool.log.act(POOL, submitted.agent_id, Terminate(), ORIGIN)
        assert acted.outcome is Outcome.DONE


async def test_a_server_that_evicts_is_refused(redis_server: MakeServer) -> None:
    server = redis_server(options={"maxmemory-policy": "allkeys-lru"})
    client = connect(server.url)
    with pytest.raises(ServerUnsuitable, match="noeviction"):
        require_suitable(await inspect(client))
    await client.aclose()


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({"redis_version": "6.2.14"}, "redis 6.2.14 is too old"),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.0"}, "valkey 7.0.0 is too old"),
    ],
)
def test_a_server_that_is_too_old_is_refused(info: dict[str, str], named: str) -> None:
    with pytest.raises(ServerUnsuitable, match=named):
        require_suitable({**info, "maxmemory_policy": "noeviction"})


async def test_a_server_that_does_not_run_is_unreachable(redis_server: MakeServer) -> None:
    server = redis_server()
    async with open_pool(server.url) as pool:
        server.stop()
        with pytest.raises((LogUnreachable, OutcomeUnknown)):  # a connection was open when it ended
            await pool.spawn()
        with pytest.raises(LogUnreachable):
            await pool.spawn()
        server.start()
        assert (await pool.spawn()).outcome is Outcome.DONE


async def test_log_time_is_the_servers_also_on_a_quiet_log(any_redis_url: str) -> None:
    """A process that starts long after the last event must not use that event's time as now."""
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        with redis.Redis.from_url(any_redis_url) as client:
            client.hincrby(f"pool:{{{POOL}}}:meta", "ts", -60_000)
            client.hset(f"pool:{{{POOL}}}:meta", "seq", "1")
            late = Log(pool.log.client, Keys())
            await late.survey(POOL)
            seconds, micros = client.time()
            assert abs(late.now_ms(POOL) - (seconds * 1000 + micros // 1000)) < 10_000


async def test_the_lead_belongs_to_one_host_until_it_is_not_renewed(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        _, first = await pool.log.lead(POOL, "h1", 0)
        _, observed = await pool.log.lead(POOL, "h2", 0)
        assert (first.host, observed.host, observed.term) == ("h1", "h1", first.term)
        await pool.log.lead(POOL, "h1", first.term)
        _, unchanged = await pool.log.lead(POOL, "h2", 0, stale=observed)
        assert unchanged.host == "h1", "it was renewed since it was read"
        _, acquired = await pool.log.lead(POOL, "h2", 0, stale=unchanged)
        assert (acquired.host, acquired.term) == ("h2", first.term + 1)
        step = pool.log.step(POOL, ORIGIN)
        step.check(Leads("h1", first.term))
        step.write(SetMeta("scaling", 9))
        assert (await pool.log.commit(step)).outcome is Outcome.FENCED


async def test_keys_of_the_public_contract(any_redis_url: str) -> None:
    """The keys that operators read with redis-cli."""
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        await pool.claim(fence)
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        assert client.keys("agent:*") == [f"agent:{{{POOL}}}:{submitted.agent_id}"]
        assert client.keys("process:*") == [f"process:{{{POOL}}}:w"]
        assert client.zrevrange(f"pool:{{{POOL}}}:processes", 0, -1, withscores=True) == [
            ("w", 9.0)
        ]
        agent = client.hgetall(f"agent:{{{POOL}}}:{submitted.agent_id}")
        assert (
            agent.items()
            >= {
                "status": "starting",
                "pool_name": POOL,
                "role_type": "developer",
                "project_id": "p",
                "process_id": "w",
            }.items()
        )
        process = client.hgetall(f"process:{{{POOL}}}:w")
        assert set(process) >= {
            "pid", "pool_name", "host", "status", "agent_count", "max_agents", "last_heartbeat",
        }  # fmt: skip
        assert all(len(value) <= 64 for value in (*agent.values(), *process.values()))


async def test_two_prefixes_share_nothing(any_redis_url: str) -> None:
    client = connect(any_redis_url)
    for prefix in ("a:", "b:"):
        log = Log(client, Keys(prefix))
        await log.create_catalogue()
        await log.initialise(POOL)
        await TestPool(log).spawn()
    await client.aclose()
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as plain:
        keys = plain.keys("*")
        assert all(key.startswith(("a:", "b:", "{a:", "{b:")) for key in keys), keys
        assert plain.hget(f"b:pool:{{{POOL}}}:meta", "seq") == "1"


async def test_a_termination_concurrent_with_a_restart_is_written(any_redis_url: str) -> None:
    """It names no incarnation, so it ends the current one, even if that started after the read."""
    async with open_pool(any_redis_url) as pool:
        spawned = await pool.spawn()
        await pool.claim(await pool.worker("w1"), 1)
        read = await pool.log.agent(POOL, spawned.agent_id)
        fence = await pool.fence("w1")
        lose = MarkLost(worker_id="w1", reason="lost", now_ms=1)
        await pool.log.act(POOL, spawned.agent_id, lose, ORIGIN, fence=fence)
        acted = await pool.log.act(POOL, spawned.agent_id, Terminate(), ORIGIN, agent=read)
    assert acted.outcome == Outcome.DONE
    assert types(any_redis_url)[-2:] == ["agent.termination_requested", "agent.terminated"]
