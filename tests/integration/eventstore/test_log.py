"""The steps of a log on real servers: spawns, ends, crashes, leads, and the keys they write."""

import asyncio

import redis

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language import agent_commands
from eventstore.language.agent_commands import Fail, MarkLost, Terminate
from eventstore.language.agents import Status
from eventstore.language.events import Error
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.steps.clauses import Leads, SetMeta
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
    assert (event["type"], event["seq"]) == ("agent.requested", "1")
    assert event["subject"] == submitted.agent_id
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


async def test_two_prefixes_share_no_key(any_redis_url: str) -> None:
    client = Client(any_redis_url)
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


async def test_of_restarts_those_are_counted_that_are_due_soon(redis_url: str) -> None:
    """For the others no worker is needed yet."""
    async with open_pool(redis_url) as pool:
        ts = (await pool.log.survey(POOL)).ts
        with redis.Redis.from_url(redis_url) as client:
            due = {"now": ts, "soon": ts + 60_000, "tomorrow": ts + 86_400_000}
            client.zadd(f"pool:{{{POOL}}}:due", due)
        assert (await pool.log.survey(POOL, ahead_ms=65_000)).restarting == 2
        assert (await pool.log.survey(POOL)).restarting == 3
