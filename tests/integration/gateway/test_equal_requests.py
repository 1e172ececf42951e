"""Equal requests that come at the same time are answered once, each as new as its question."""

import asyncio

from gateway.health import facts
from tests.integration.gateway.stage import AGENTS
from tests.integration.projector.stage import POOL


async def test_equal_figures_are_made_once_for_all_that_wait(stage, monkeypatch):
    """Of ten that come at once, one is started and nine wait for the next, if not for the first."""
    asked, ask = [], facts.redis_facts

    async def counted(backend):
        asked.append(backend)
        return await ask(backend)

    monkeypatch.setattr(facts, "redis_facts", counted)
    await stage.pending()
    answers = await asyncio.gather(*(stage.get(f"{AGENTS}/monitor/dashboard") for _ in range(10)))
    assert [answer.status for answer in answers] == [200] * 10
    assert len(asked) <= 3
    assert all(answer.json["agents"][POOL] == {"pending": 1} for answer in answers)
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 10
    assert all(answer.headers["Muster-Position"] for answer in answers)


async def test_an_answer_has_what_was_written_before_it_was_asked_for(stage):
    """Others ask all the time."""

    async def poll():
        while True:
            await stage.get(f"{AGENTS}/monitor/dashboard")

    polling = [asyncio.create_task(poll()) for _ in range(5)]
    for number in range(1, 6):
        await stage.pending()
        answer = await stage.get(f"{AGENTS}/monitor/dashboard")
        assert answer.json["agents"][POOL] == {"pending": number}
    for task in polling:
        task.cancel()
