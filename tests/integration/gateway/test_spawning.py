"""Spawning agents over HTTP: waiting for them, and repeating the request."""

import asyncio
import time

import pytest
import redis

from eventstore.language.agent_commands import Started
from eventstore.log.replies import Outcome
from eventstore.log.script_runner import CLOCK_STALE_SECONDS, ClockReading
from eventstore.log.submission import submit
from gateway.resources import spawn
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage, playing
from tests.integration.projector.stage import POOL
from tests.pools import data, raw_events
from tests.waiting import until


async def test_a_spawn_answers_with_the_agent_once_it_runs(redis_url, database_url):
    """On both databases; what is read afterwards shows it too."""
    async with gateway_stage(redis_url, database_url) as stage:
        fence = await stage.worker()
        async with playing(lambda: stage.run(fence)):
            answer = await stage.spawn(input={"task": "x"}, labels={"team": "core"})
        assert answer.status == 200, answer.body
        agent_id = answer.json["agent_id"]
        assert answer.json["status"] == "running"
        assert answer.json["process_id"] == "w1"
        assert answer.headers["Location"] == f"{AGENTS}/{agent_id}"
        assert answer.headers["Muster-Position"].startswith(f"{POOL}:")
        read = await stage.get(answer.headers["Location"])
        assert (read.status, read.json["status"]) == (200, "running")
        assert read.json["input"] == {"task": "x"}
        assert read.json["labels"] == {"team": "core"}
        assert "Muster-Stale" not in read.headers


async def test_a_host_whose_clock_is_wrong_changes_no_time(redis_url, tmp_path, monkeypatch):
    """Also in the first step of a gateway, which knows log time from no reply yet."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600_000_000_000)
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        await stage.pending(pending_timeout=60)
        [requested] = raw_events(redis_url)
        left_ms = data(requested)["expires_ms"] - int(requested["ts"])
        assert 0 <= 60_000 - left_ms < 5_000


async def test_a_time_out_is_by_the_time_of_its_own_log(redis_url, tmp_path):
    """It was written while Redis' clock was a day ahead, and has been ahead ever since."""
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database) as stage:
        await stage.pending()
    with redis.Redis.from_url(redis_url) as client:
        now = int(client.time()[0]) * 1000
        client.hset(f"pool:{{{POOL}}}:meta", mapping={"ts": now + 86_400_000, "clock": now})
    async with gateway_stage(redis_url, database) as stage:
        await stage.pending(pending_timeout=60)
        requested = raw_events(redis_url)[-1]
        left_ms = data(requested)["expires_ms"] - int(requested["ts"])
        assert abs(60_000 - left_ms) < 5_000


async def test_a_host_that_was_suspended_learns_the_log_time_again(stage):
    """Its own clock stopped; a gateway that only reads gets no time from a reply."""
    log = stage.backend.log
    await stage.pending()
    wrong = ClockReading(log.now_ms(POOL) - 3_600_000, time.monotonic() - CLOCK_STALE_SECONDS)
    log._clocks = dict.fromkeys(log._clocks, wrong)
    await stage.pool.spawn()  # so that the tail reads again
    await until(lambda: abs(log.now_ms(POOL) - stage.log.now_ms(POOL)) < 5_000)


async def test_an_unclaimed_spawn_is_accepted_and_says_what_it_waits_for(stage):
    answer = await stage.spawn(prefer="wait=0")
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert answer.headers["Location"] == f"{AGENTS}/{answer.json['agent_id']}"
    assert (answer.json["status"], answer.json["reason"]) == ("pending", "waiting to be claimed")


async def test_a_pending_agent_says_why_no_worker_is_started(stage):
    """The leader of the pool has found that no host has room."""
    answer = await stage.spawn(prefer="wait=0")
    address = f"{AGENTS}/{answer.json['agent_id']}"
    why = "no host has room for another worker: h1: it has 2 of at most 2 workers"
    await stage.log.client.execute_command("HSET", f"pool:{{{POOL}}}:meta", "blocked", why)
    assert (await stage.get(address)).json["reason"] == why
    assert [one["reason"] for one in (await stage.get(AGENTS)).json["agents"]] == [why]
    await stage.log.client.execute_command("HSET", f"pool:{{{POOL}}}:meta", "blocked", "")
    assert (await stage.get(address)).json["reason"] == "waiting to be claimed"


async def test_a_pending_agent_says_which_cap_holds_it_back(stage):
    """The placer of the pool has found that; other agents wait for something else."""
    capped = await stage.spawn(prefer="wait=0", project_id="demo", labels={"tier": "free"})
    other = await stage.spawn(prefer="wait=0", project_id="other", priority=3)
    assert (other.json["priority"], other.json["expected_seconds"]) == (3, None)

    async def reasons(caps: str) -> list[str]:
        await stage.log.client.execute_command("HSET", f"pool:{{{POOL}}}:meta", "capped", caps)
        return [
            (await stage.get(f"{AGENTS}/{one.json['agent_id']}")).json["reason"]
            for one in (capped, other)
        ]

    waits = "waiting to be claimed"
    assert await reasons('[["project-cap","demo",3]]') == [
        "project-cap: at most 3 of project demo may run at a time",
        waits,
    ]
    assert await reasons('[["label-cap","tier=free",1]]') == [
        "label-cap: at most 1 with the label tier=free may run at a time",
        waits,
    ]
    assert await reasons('[["label-cap","tier=paid",1]]') == [waits, waits]
    assert await reasons('[["a newer kind"]]') == [waits, waits]


async def test_respond_async_does_not_wait(stage):
    answer = await stage.spawn(prefer="wait=50, respond-async")
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    read = await stage.get(f"{AGENTS}/{answer.json['agent_id']}")
    assert (read.status, read.json["status"]) == (200, "pending")


async def test_a_wait_that_is_too_long_is_limited_and_one_that_cannot_be_read_is_ignored(stage):
    fence = await stage.worker()
    async with playing(lambda: stage.run(fence)):
        answer = await stage.spawn(prefer="wait=99999")
    assert answer.headers["Preference-Applied"] == f"wait={QUICK.wait_max:g}"
    async with playing(lambda: stage.run(fence)):
        answer = await stage.spawn(prefer="wait=soon")
    assert (answer.status, "Preference-Applied" in answer.headers) == (200, False)


@pytest.mark.parametrize(("limit", "outlook"), [(0, "not be tried again"), (5, "be tried again")])
async def test_a_start_that_fails_is_answered_with_its_error(stage, limit, outlook):
    fence = await stage.worker()
    async with playing(lambda: stage.fail(fence, limit=limit)):
        answer = await stage.spawn()
    assert (answer.status, answer.kind) == (502, "agent-start-failed")
    assert answer.json["error"] == {
        "type": "ValueError",
        "message": "no model",
        "traceback": "line 1",
    }
    assert outlook in answer.json["detail"]
    assert answer.headers["Location"] == f"{AGENTS}/{answer.json['agent_id']}"


async def test_an_agent_that_ran_and_crashed_before_it_was_seen_to_run_is_a_success(
    stage, monkeypatch
):
    """The gateway reads its start and its crash at once; a repeated request answers the same."""
    fence = await stage.worker()

    async def submit_and_run(*arguments, **options):
        submitted = await submit(*arguments, **options)
        if submitted.outcome is not Outcome.KNOWN:
            [agent_id] = await stage.run(fence)
            await stage.crash(agent_id, fence)
            tail, head = stage.backend.tail, await stage.stage.head(POOL)
            await until(lambda: tail.heads[POOL].seq == head)
        return submitted

    monkeypatch.setattr(spawn, "submit", submit_and_run)
    first = await stage.spawn(key="k", prefer="wait=1")
    again = await stage.spawn(key="k", prefer="wait=1")
    assert [answer.json["status"] for answer in (first, again)] == ["restarting"] * 2
    assert [answer.status for answer in (first, again)] == [200, 200]


async def test_an_agent_withdrawn_before_it_ran_is_no_success(stage):
    spawn = asyncio.ensure_future(stage.spawn())
    await until(stage.events)
    [agent_id] = await stage.log.live(POOL)
    ended = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert ended.status == 200
    answer = await spawn
    assert (answer.status, answer.kind) == (409, "agent-withdrawn")


async def test_a_full_backlog_is_refused_with_when_to_come_back(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        config = {"config": {"backlog_limit": 1}}
        await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=config)
        await stage.pending()
        answer = await stage.spawn()
        assert (answer.status, answer.kind) == (429, "backlog-full")
        assert answer.headers["Retry-After"] == "1"
        assert await stage.events() == ["agent.requested"]


async def test_over_the_limit_of_waiters_a_spawn_is_answered_at_once(redis_url, tmp_path):
    """It is accepted, as with respond-async."""
    limits = type(QUICK)(waiters_max=0, wait_default=30.0)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        answer = await asyncio.wait_for(stage.spawn(), 10)
        assert (answer.status, answer.json["status"]) == (202, "pending")


async def test_a_repeated_key_answers_what_the_first_did(stage):
    first = await stage.spawn(prefer="respond-async", key="order-1", labels={"a": "1", "b": "2"})
    again = await stage.spawn(prefer="respond-async", key="order-1", labels={"b": "2", "a": "1"})
    assert again.status == 202
    assert again.json["agent_id"] == first.json["agent_id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await stage.events() == ["agent.requested"]


async def test_a_repeated_key_waits_like_the_first(stage):
    fence = await stage.worker()
    agent_id = (await stage.spawn(prefer="respond-async", key="k")).json["agent_id"]
    async with playing(lambda: stage.run(fence)):
        again = await stage.spawn(key="k")
    assert (again.status, again.json["status"]) == (200, "running")
    assert again.json["agent_id"] == agent_id


async def test_a_key_of_another_request_is_refused(stage):
    first = await stage.spawn(prefer="respond-async", key="k")
    other = await stage.spawn(prefer="respond-async", key="k", project_id="gemini")
    assert (other.status, other.kind) == (422, "idempotency-key-reused")
    assert other.fields == ["Idempotency-Key"]
    assert other.json["agent_id"] == first.json["agent_id"]
    assert await stage.events() == ["agent.requested"]


async def test_twenty_concurrent_requests_with_one_key_are_one_agent(stage):
    answers = await asyncio.gather(
        *(stage.spawn(prefer="respond-async", key="one") for _ in range(20))
    )
    assert len({answer.json["agent_id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19
    assert await stage.events() == ["agent.requested"]


async def test_without_a_key_each_request_is_an_agent(stage):
    ids = {await stage.pending() for _ in range(3)}
    assert len(ids) == 3


async def test_a_gateway_that_stops_answers_all_waiting_clients(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'v.db'}") as stage:
        waiting = asyncio.ensure_future(stage.spawn(prefer="wait=50"))
        await until(stage.events)
        await asyncio.wait_for(stage.gateway.stop(), 10)
        assert (await waiting).status == 202
        await stage.gateway.stop()


async def test_nothing_is_missed_between_the_request_and_a_worker_that_is_faster(stage):
    """The agent runs before the answer to the submit has come back, again and again."""
    fence = await stage.worker(slots=20)

    async def eager():
        started = 0
        while started < 20:
            for claimed in await stage.pool.claim(fence, 20 - started):
                await stage.act(
                    claimed.agent.agent_id, Started(now_ms=stage.log.now_ms(POOL)), fence
                )
                started += 1

    async with playing(eager):
        answers = await asyncio.gather(*(stage.spawn() for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20


async def test_a_flood_for_one_pool_is_submitted_in_turns(stage):
    """What waits for its turn holds up no spawn of another pool."""
    await stage.ask("POST", f"{AGENTS}/pools", json={"role_type": "developer", "pool_name": "p"})
    turn = stage.backend.turns[POOL] = asyncio.Semaphore(0)
    flood = [asyncio.create_task(stage.spawn(prefer="respond-async")) for _ in range(3)]
    for _ in flood:
        assert (await stage.spawn(pool_name="p", prefer="respond-async")).status == 202
    assert not any(task.done() for task in flood)
    turn.release()
    assert [answer.status for answer in await asyncio.gather(*flood)] == [202, 202, 202]
