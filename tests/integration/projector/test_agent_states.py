"""What agents have saved, in the database: copied, given back, and gone with its agent."""

import hashlib
from typing import Any

import pytest
import redis

from eventstore.language.agent_commands import LoseState, Release, RequestRestart, Save, Terminate
from eventstore.log.replies import Outcome
from eventstore.log.restarting import request_restart
from eventstore.steps.step import Fence
from projector.verify.verification import verify
from tests.chaos.judge import judge
from tests.integration.projector.recovering import recovered, require_equal, rolled_back, wipe
from tests.integration.projector.stage import POOL, QUICK, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases")


def key(agent_id: str) -> str:
    return f"state:{{{POOL}}}:{agent_id}"


def in_redis(stage: Stage, agent_id: str) -> bytes | None:
    with redis.Redis.from_url(stage.redis_url) as client:
        state: bytes | None = client.get(key(agent_id))
        return state


async def copies(stage: Stage) -> dict[str, bytes]:
    rows = await stage.sql("SELECT agent_id, state FROM {}agent_states")
    return {row["agent_id"]: bytes(row["state"]) for row in rows}


async def copied(stage: Stage, expected: dict[str, bytes]) -> None:
    async def there() -> bool:
        return await copies(stage) == expected

    await until(there, what=f"the copies are {expected}")


async def save(stage: Stage, agent_id: str, state: bytes, fence: Fence) -> None:
    agent = await stage.log.agent(POOL, agent_id)
    assert agent is not None
    sha256 = hashlib.sha256(state).hexdigest()
    command = Save(after=agent.save, size=len(state), sha256=sha256)
    acted = await stage.log.act(POOL, agent_id, command, ORIGIN, fence=fence, state=state)
    assert acted.outcome is Outcome.DONE


async def running(stage: Stage, count: int) -> tuple[TestPool, Fence, list[str]]:
    pool = await stage.pool(**QUICK)
    fence = await pool.worker("w")
    return pool, fence, await stage.started(pool, fence, count)


async def test_the_latest_state_is_copied_and_goes_with_its_agent(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        _, fence, (a, b) = await running(stage, 2)
        await save(stage, a, b"\x00 early", fence)
        async with stage.projecting():
            await copied(stage, {a: b"\x00 early"})
            await save(stage, a, b"later", fence)
            await save(stage, b, b"", fence)
            await copied(stage, {a: b"later", b: b""})
            await stage.act(pool_of(stage), a, Terminate(graceful=False))
            await stage.act(pool_of(stage), a, Release(reason="x"), fence=fence)
            await copied(stage, {b: b""})
        assert in_redis(stage, a) is None
        await require_equal(stage)
        assert judge(redis_url, views=database_url) == []


def pool_of(stage: Stage) -> TestPool:
    return TestPool(stage.log, POOL)


async def test_what_an_earlier_projector_did_not_copy_is_copied_later(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        _, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"s", fence)
        with monkeypatch.context() as patch:
            patch.setattr("projector.service.state_copies.StateCopies.note", lambda *_: None)
            await stage.catch_up()
        assert await copies(stage) == {}
        async with stage.projecting():
            await copied(stage, {a: b"s"})


async def test_a_rebuild_leaves_the_copies(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        _, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"s", fence)
        async with stage.projecting():
            await copied(stage, {a: b"s"})
        await stage.sql("DROP TABLE {}agents" + ("" if "sqlite" in database_url else " CASCADE"))
        with redis.Redis.from_url(redis_url) as client:
            client.delete(key(a))
        await stage.catch_up()
        assert await copies(stage) == {a: b"s"}


async def test_a_recovered_log_has_the_states_again(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        _, fence, (a, b) = await running(stage, 2)
        await save(stage, a, b"s", fence)
        await save(stage, b, b"t", fence)
        await stage.act(pool_of(stage), b, Release(reason="drain"), fence=fence)
        async with stage.projecting():
            await copied(stage, {a: b"s", b: b"t"})
        wipe(redis_url)
        await recovered(stage)
        assert (in_redis(stage, a), in_redis(stage, b)) == (b"s", b"t")
        await require_equal(stage)
        assert judge(redis_url, views=database_url) == []


async def test_a_redis_that_was_rolled_back_gives_no_older_state(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive knows of the later save, and nothing has its bytes."""
    async with open_stage(redis_url, views_url) as stage:
        pool, fence, (a, b) = await running(stage, 2)
        await save(stage, a, b"older", fence)
        await save(stage, b, b"same", fence)
        async with stage.projecting():
            await copied(stage, {a: b"older", b: b"same"})
        with rolled_back(redis_url), monkeypatch.context() as patch:
            patch.setattr("projector.service.state_copies.StateCopies.note", lambda *_: None)
            await save(stage, a, b"later", fence)
            await stage.catch_up()
        await recovered(stage)
        assert (in_redis(stage, a), in_redis(stage, b)) == (None, b"same")
        await stage.catch_up()
        stage.log.raise_high_water_mark(POOL, 2, 0)
        fence = await pool.worker("v")
        agents = {c.agent.agent_id: c.agent for c in await pool.claim(fence, 2)}
        assert await stage.log.saved_state(POOL, agents[a]) is None
        assert await stage.log.saved_state(POOL, agents[b]) == b"same"


async def test_a_save_that_was_never_archived_is_not_replaced_by_an_older_one(
    redis_url: str, views_url: str
) -> None:
    """The rest of the stream, or the worker's report, knows of it."""
    async with open_stage(redis_url, views_url) as stage:
        _, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"older", fence)
        async with stage.projecting():
            await copied(stage, {a: b"older"})
        await report(stage, a, 2, hashlib.sha256(b"later").hexdigest())
        with redis.Redis.from_url(redis_url) as client:
            client.delete(f"pool:{{{POOL}}}:events", f"pool:{{{POOL}}}:meta")
        await recovered(stage)
        stage.log.raise_high_water_mark(POOL, 2, 0)
        agent = await stage.log.agent(POOL, a)
        assert agent is not None
        assert (agent.status.value, agent.reason, agent.save) == ("pending", "state-lost", 2)
        await require_equal(stage)
        assert judge(redis_url, views=views_url) == []
        assert [one.agent_id for one in await stage.views.lost_states()] == [a]


async def report(stage: Stage, agent_id: str, save: int, sha256: str) -> None:
    from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, write_reports

    held = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id=agent_id, incarnation=1,
                      generation=1, seq=1, save=save, sha256=sha256)  # fmt: skip
    await write_reports(stage.log, POOL, [held])


async def test_a_lost_state_is_given_back_if_the_database_has_it(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        _, fence, (a, b) = await running(stage, 2)
        for agent_id in (a, b):
            await save(stage, agent_id, b"s", fence)
        async with stage.projecting():
            await copied(stage, {a: b"s", b: b"s"})
            await stage.sql("DELETE FROM {}agent_states WHERE agent_id = :id", id=b)
            for agent_id in (a, b):
                with redis.Redis.from_url(redis_url) as client:
                    client.delete(key(agent_id))
                lost = LoseState(save=1, sha256=hashlib.sha256(b"s").hexdigest())
                await stage.act(pool_of(stage), agent_id, lost, fence=fence)
            await until(lambda: in_redis(stage, a) == b"s", what="it is back")
            await stage.settle()
            assert types(redis_url)[-1] == "agent.restarting"
            row = await stage.views.agent(b)
            assert row is not None
            assert (row.status, row.reason) == ("pending", "state-lost")
        await require_equal(stage)
        assert judge(redis_url, views=database_url) == []


async def test_a_failed_agent_is_restarted_with_its_state(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool, fence, (a, b) = await running(stage, 2)
        for agent_id in (a, b):
            await save(stage, agent_id, b"s", fence)
            await stage.crash(pool, agent_id, fence, limit=0)
        with redis.Redis.from_url(redis_url) as client:
            assert 0 < client.pttl(key(a)) <= 86_400_000
        async with stage.projecting():
            await copied(stage, {a: b"s", b: b"s"})
        with redis.Redis.from_url(redis_url) as client:
            client.delete(key(a))

        async def restart(agent_id: str, **options: Any) -> None:
            done = await request_restart(
                stage.log, pool.pool, agent_id, "repaired", ORIGIN,
                from_views=lambda: stage.views.agent_state(POOL, agent_id),
                copied_state=stage.views.saved_state, **options,
            )  # fmt: skip
            assert done.outcome is Outcome.DONE

        await restart(a)
        await restart(b, discard_state=True)
        assert (in_redis(stage, a), in_redis(stage, b)) == (b"s", None)
        with redis.Redis.from_url(redis_url) as client:
            assert client.pttl(key(a)) == -1
        await require_equal(stage)
        assert await copies(stage) == {a: b"s"}


async def test_a_discarded_state_is_gone_everywhere(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"s", fence)
        async with stage.projecting():
            await copied(stage, {a: b"s"})
            await stage.act(pool, a, RequestRestart(reason="x", discard_state=True))
            await copied(stage, {})
        assert in_redis(stage, a) is None
        assert raw_events(redis_url)[-1]["type"] == "agent.restart_requested"
        await require_equal(stage)


async def test_verify_reports_a_state_that_is_not_the_one_of_the_log(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        _, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"s", fence)
        await require_equal(stage)
        with redis.Redis.from_url(redis_url) as client:
            client.set(key(a), b"t")
            client.set(key("stranger"), b"x")
        found = await verify(redis_url, "", views_url)
        assert {one.subject for one in found.differences} == {f"state:{a}", "state:stranger"}
        assert len(judge(redis_url, views=views_url)) == 2


async def test_verify_reports_a_copy_that_is_damaged_or_of_nobody(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        _, fence, (a,) = await running(stage, 1)
        await save(stage, a, b"s", fence)
        async with stage.projecting():
            await copied(stage, {a: b"s"})
        await stage.sql("UPDATE {}agent_states SET state = :state", state=b"t")
        await stage.sql(
            "INSERT INTO {}agent_states (pool_name, agent_id, save, sha256, saved_at, state)"
            f" VALUES ('{POOL}', 'nobody', 1, 'x', 1, :state)",
            state=b"x",
        )
        found = (await verify(redis_url, "", views_url)).differences
        assert {one.subject for one in found} == {f"agent_states/{a}", "agent_states/nobody"}
