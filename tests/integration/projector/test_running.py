"""What dashboards read several times a second is what the registry and the history say."""

from projector.queries.live import AGENT_NAMES, SERIES_NAMES, WORKER_NAMES
from projector.queries.pool_history import pool_history
from projector.queries.spans import Span
from projector.queries.views import AgentFilter
from tests.integration.projector.stage import POOL, archived_story

MINUTE_MS = 60_000


async def test_what_runs_is_what_the_registry_says(redis_url: str, database_url: str) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        found = await stage.views.running()
        agents = await stage.views.agents(AgentFilter(ended=False))
        workers = await stage.views.workers()
        counts = await stage.views.count_agents()
    assert len(agents) > 2
    expected = [tuple(getattr(row, name) or "" for name in AGENT_NAMES[:-1]) for row in agents]
    read = [tuple(one or "" for one in row[:-1]) for row in found.agents.values()]
    assert sorted(read) == sorted(expected)
    names = WORKER_NAMES[:10]
    lists = [tuple(getattr(row, name) for name in names) for row in workers]
    assert sorted(row[: len(names)] for row in found.workers.values()) == sorted(lists)
    assert found.counts == {POOL: {**counts[POOL], "failed": 1}}
    assert not found.cut_off


async def test_the_last_hour_is_that_of_the_history(redis_url: str, database_url: str) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        positions = await stage.views.positions()
        now_ms = positions[POOL].ts
        hours = await stage.views.last_hour([POOL, "no_such_pool"], now_ms)
        since = (now_ms // MINUTE_MS - 59) * MINUTE_MS
        history = await pool_history(
            stage.views.history, POOL, Span(since, now_ms + 1, is_open=True), "minute"
        )
    assert set(hours["no_such_pool"]["slots"]) == {0}
    series = {name: [getattr(one, name) for one in history.points] for name in SERIES_NAMES}
    assert hours[POOL] == series
    assert sum(series["failures"]) > 1
