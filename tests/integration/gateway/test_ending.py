"""Ending agents over HTTP, and waiting until they have ended."""

from eventstore.ids import new_id
from tests.integration.gateway.stage import AGENTS, GatewayStage, playing
from tests.integration.projector.stage import POOL
from tests.waiting import until


async def test_ending_answers_once_the_agent_has_ended(stage):
    fence = await stage.worker()
    for count, by in enumerate(("terminate", "delete"), 1):
        await stage.pending()
        [agent_id] = await stage.run(fence)

        async def obey(agent_id: str = agent_id, count: int = count):
            await until(lambda: _asked_to_end(stage, count))
            await stage.end(agent_id, fence)

        async with playing(obey):
            if by == "delete":
                answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
            else:
                answer = await stage.terminate(agent_id)
        assert (answer.status, answer.json["status"]) == (200, "terminated")
        assert (await stage.log.live(POOL)) == []


async def _asked_to_end(stage: GatewayStage, count: int) -> bool:
    return (await stage.events()).count("agent.termination_requested") == count


async def test_an_agent_that_ends_slowly_is_answered_with_202(stage):
    await stage.pending()
    [agent_id] = await stage.run(await stage.worker())
    answer = await stage.terminate(agent_id, prefer="wait=0", graceful=False)
    assert (answer.status, answer.json["status"]) == (202, "stopping")
    assert answer.json["stop"] == "now"


async def test_ending_twice_is_ending_once(stage):
    agent_id = await stage.pending()
    first = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    again = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (first.status, again.status) == (200, 200)
    assert await stage.events() == [
        "agent.requested",
        "agent.termination_requested",
        "agent.terminated",
    ]


async def test_an_agent_that_redis_has_forgotten_is_answered_from_the_views(stage):
    agent_id = await stage.pending()
    await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    await stage.stage.settle()
    await stage.log.client.execute_command("DEL", stage.log.keys.agent(POOL, agent_id))
    answer = await stage.terminate(agent_id)
    assert (answer.status, answer.json["status"]) == (200, "terminated")


async def test_ending_an_unknown_agent_is_a_404_that_names_the_field(stage):
    unknown = new_id()
    for answer in (
        await stage.ask("DELETE", f"{AGENTS}/{unknown}"),
        await stage.get(f"{AGENTS}/{unknown}"),
        await stage.terminate(unknown),
    ):
        assert (answer.status, answer.kind, answer.fields) == (
            404,
            "agent-not-found",
            ["agent_id"],
        )
    assert await stage.events() == []


async def test_an_agent_is_not_ended_through_another_pool(stage):
    await stage.stage.pool("tester_pool")
    agent_id = await stage.pending()
    answer = await stage.terminate(agent_id, pool="tester_pool")
    assert (answer.status, answer.kind) == (404, "agent-not-found")
    assert await stage.log.live(POOL) == [agent_id]
