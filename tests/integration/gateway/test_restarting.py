"""`POST /agents/{id}/restart`: what comes back, what does not, and how often."""

import asyncio
from typing import Any

from redis import Redis

from eventstore.language.agent_commands import Release
from eventstore.language.agents import Status
from eventstore.steps import clauses
from projector.verify.verification import verify
from tests.chaos.judge import judge
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN, raw_events

SPEC: dict[str, Any] = {"input": {"task": "dig"}, "labels": {"team": "core"}}


async def failed(stage: GatewayStage) -> str:
    """An agent that failed for good, as the views know."""
    config = {"config": {"restart_limit": 0}}
    await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=config)
    agent_id = await stage.pending(**SPEC)
    fence = await stage.worker(f"w{len(await stage.events())}")
    await stage.fail(fence)
    await stage.stage.settle(POOL)
    return agent_id


async def restart(stage: GatewayStage, agent_id: str, **options: Any) -> Any:
    headers = {"Prefer": "respond-async", **options.pop("headers", {})}
    return await stage.ask("POST", f"{AGENTS}/{agent_id}/restart", headers=headers, **options)


async def intact(stage: GatewayStage) -> None:
    """Log, hashes, queues and views agree, by Muster's own fold and by the judge's."""
    await stage.stage.settle(POOL)
    report = await verify(stage.stage.redis_url, "", stage.stage.database_url)
    assert report.differences == []
    assert judge(stage.stage.redis_url, views=stage.stage.database_url) == []


async def test_a_failed_agent_comes_back_under_its_id(stage: GatewayStage) -> None:
    """With its input, which Redis does not have any more, as its next incarnation."""
    with Redis.from_url(stage.stage.redis_url) as server:
        for where in ("redis", "views"):
            agent_id = await failed(stage)
            key = stage.log.keys.agent(POOL, agent_id)
            if where == "views":
                server.delete(key)
            answer = await restart(stage, agent_id, json={"reason": "the model is back"})
            assert (answer.status, answer.json["agent_id"]) == (202, agent_id)
            assert server.ttl(key) == -1, "its hash does not expire"
            event = raw_events(stage.stage.redis_url)[-1]
            assert event["type"] == "agent.restart_requested"
            assert (event["subject"], event["actor"]) == (agent_id, "http")
            assert event["data"] == '{"reason":"the model is back","next_incarnation":2}'
            [claimed] = await stage.claim(await stage.worker(where))
            agent = claimed.agent
            assert (agent.agent_id, agent.incarnation, agent.failures_in_row) == (agent_id, 2, 0)
            assert claimed.spec == b'{"input":{"task":"dig"},"labels":{"team":"core"}}'
            await intact(stage)


async def test_it_waits_for_the_start(stage: GatewayStage) -> None:
    agent_id = await failed(stage)
    fence = await stage.worker("later")
    asking = asyncio.ensure_future(restart(stage, agent_id, headers={"Prefer": "wait=5"}))
    await stage.run(fence)
    answer = await asking
    assert (answer.status, answer.json["status"], answer.json["incarnation"]) == (200, "running", 2)


async def test_what_waits_for_its_back_off_starts_at_once(stage: GatewayStage) -> None:
    agent_id = await stage.pending()
    await stage.fail(await stage.worker(), limit=5)
    answer = await restart(stage, agent_id)
    assert (answer.status, answer.json["status"]) == (202, "pending")
    assert (await stage.log.survey(POOL)).due == ()
    await intact(stage)


async def test_what_runs_is_released_by_its_worker_first(stage: GatewayStage) -> None:
    fence = await stage.worker()
    await stage.pending()
    [agent_id] = await stage.run(fence)
    answer = await restart(stage, agent_id)
    assert (answer.status, answer.json["status"], answer.json["incarnation"]) == (202, "running", 1)
    assert (await restart(stage, agent_id)).status == 202, "asked for once"
    assert (await stage.events()).count("agent.restart_requested") == 1
    await intact(stage)
    await stage.act(agent_id, Release(reason="restart-requested"), fence)
    agent = await stage.log.agent(POOL, agent_id)
    assert agent is not None
    assert (agent.status, agent.restart, agent.incarnation) == (Status.PENDING, False, 2)
    await intact(stage)


async def test_what_was_terminated_stays_so(stage: GatewayStage) -> None:
    agent_id = await stage.pending()
    await stage.terminate(agent_id)
    answer = await restart(stage, agent_id)
    assert (answer.status, answer.kind) == (409, "not-restartable")
    fence = await stage.worker()
    await stage.pending()
    [running] = await stage.run(fence)
    await stage.terminate(running, prefer="respond-async")
    assert (await restart(stage, running)).kind == "not-restartable"
    assert "agent.restart_requested" not in await stage.events()


async def test_a_repeated_request_with_its_key_restarts_once(stage: GatewayStage) -> None:
    agent_id = await failed(stage)
    key = {"Idempotency-Key": "once"}
    assert (await restart(stage, agent_id, headers=key)).status == 202
    await stage.fail(await stage.worker("later"))
    await stage.stage.settle(POOL)
    again = await restart(stage, agent_id, headers=key)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json["status"] == "failed"
    other = await failed(stage)
    reused = await restart(stage, other, headers=key)
    assert (reused.status, reused.kind) == (422, "idempotency-key-reused")
    assert (await stage.events()).count("agent.restart_requested") == 1


async def test_of_requests_at_the_same_time_one_restarts(stage: GatewayStage) -> None:
    agent_id = await failed(stage)
    answers = await asyncio.gather(*(restart(stage, agent_id) for _ in range(8)))
    assert {answer.status for answer in answers} == {202}
    assert (await stage.events()).count("agent.restart_requested") == 1
    await intact(stage)


async def test_what_is_refused_restarts_nothing(stage: GatewayStage) -> None:
    """A request without a body needs no content type; a browser says from which site it is."""
    answer = await restart(stage, "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e")
    assert (answer.status, answer.kind) == (404, "agent-not-found")
    agent_id = await failed(stage)
    answer = await restart(stage, agent_id, headers={"Origin": "http://evil.example"})
    assert (answer.status, answer.kind) == (415, "unsupported-media-type")
    await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json={"config": {"backlog_limit": 1}})
    await stage.pending()
    answer = await restart(stage, agent_id)
    assert (answer.status, answer.kind) == (429, "backlog-full")
    assert "agent.restart_requested" not in await stage.events()


async def test_the_alert_of_a_failed_agent_ends_with_its_restart(stage: GatewayStage) -> None:
    """And is one again where it fails again."""
    agent_id = await failed(stage)
    [alert] = await stage.alerts("agent-failed")
    assert f"muster restart {agent_id}" in alert["action"]
    await restart(stage, agent_id)
    await stage.stage.settle(POOL)
    assert await stage.alerts("agent-failed") == []
    await stage.fail(await stage.worker("later"))
    await stage.stage.settle(POOL)
    assert [alert["subject"] for alert in await stage.alerts("agent-failed")] == [agent_id]


async def test_the_past_knows_when_it_had_failed(stage: GatewayStage) -> None:
    agent_id = await failed(stage)
    position = await stage.stage.head(POOL)
    await restart(stage, agent_id)
    await stage.stage.settle(POOL)

    async def listed(as_of: str) -> list[str]:
        found = await stage.get(f"{AGENTS}?pool_name={POOL}{as_of}")
        return [agent["status"] for agent in found.json["agents"]]

    assert await listed("") == ["pending"]
    assert await listed(f"&as_of={POOL}:{position}") == []
    assert await listed(f"&as_of={POOL}:{position + 1}") == ["pending"]


async def test_a_pool_whose_role_is_not_available_is_an_alert(stage: GatewayStage) -> None:
    """Its agents show the reason, also one that waits for a worker of its own; none has changed."""
    agent_id = await stage.pending()

    async def shown(blocked: str) -> str:
        step = stage.log.step(POOL, ORIGIN)
        step.write(clauses.SetMeta("blocked", blocked))
        await stage.log.commit(step)
        return str((await stage.get(f"{AGENTS}/{agent_id}")).json["reason"])

    missing = "import-failed: role 'developer' (acme:Developer): ImportError: no acme"
    for reason in (missing, ""):
        assert await shown(reason) == (reason or "waiting to be claimed")
        messages = [f"agents of pool {POOL} wait: {reason}"] if reason else []
        assert [one["message"] for one in await stage.alerts("role-unavailable")] == messages
    for name in "xy":
        await stage.pool.claim(await stage.pool.worker(name, slots=3), 2)
        await stage.pool.lose([agent_id], name)
    await stage.stage.settle(POOL)
    undeclared = "role-not-declared: this host's configuration has no role"
    assert await shown(undeclared) == f"{undeclared} (lost)"
    assert await shown("no host has room") == "needs a worker of its own (lost)"


async def test_what_cannot_be_put_back_in_a_worker_is_an_alert(stage: GatewayStage) -> None:
    key = stage.log.keys.pool(POOL, "damaged")
    await stage.log.client.execute_command("SET", key, "umask of worker w2")
    [alert] = await stage.alerts("process-damaged")
    assert alert["message"].startswith(f"an agent of pool {POOL} changed the umask of worker w2,")
