"""Usage and the history of a pool over HTTP."""

import asyncio
from typing import Any

import pytest

from tests.integration.gateway.log_time import passed
from tests.integration.gateway.stage import AGENTS, GatewayStage, gateway_stage
from tests.integration.projector.stage import POOL

USAGE = f"{AGENTS}/usage"
HISTORY = f"{AGENTS}/pools/{POOL}/history"
WORKER = "01900000-0000-7000-8000-000000000001"


async def used(stage: GatewayStage, **query: Any) -> Any:
    answer = await stage.get(USAGE, params={**query})
    assert answer.status == 200, answer.body
    return answer.json


async def test_what_was_acknowledged_is_in_the_answer_and_what_runs_counts_until_now(
    redis_url: str, database_url: str
) -> None:
    async with gateway_stage(redis_url, database_url) as stage:
        fence = await stage.worker(WORKER)
        for team in ("core", "core", "edge"):
            await stage.pending(labels={"team": team})
        [first, *_] = await stage.run(fence, 3)
        await stage.end(first, fence)
        await passed(stage)
        report = await used(stage, by="project,label:team")
        [core, edge] = report["rows"]
        assert (core["label"], core["agents"], core["claims"], core["ended"]) == ("core", 2, 2, 1)
        assert (edge["label"], edge["requested"], edge["worker_seconds"]) == ("edge", 1, None)
        assert report["total"]["worker_seconds"] >= edge["slot_seconds"] > 0
        assert report["until_time"].endswith("Z")
        await asyncio.sleep(0.02)
        later = await used(stage, by="project,label:team", label="team:edge")
        assert later["rows"][0]["slot_seconds"] > edge["slot_seconds"]
        assert later["rows"][0]["project_id"] == edge["project_id"]
        again = await used(stage, since=report["since"], until=report["until"], by="pool")
        assert again["total"] == report["total"]


async def test_a_span_is_divided_and_a_date_may_be_in_any_zone(stage: GatewayStage) -> None:
    await stage.pending()
    await passed(stage)
    months = await used(stage, since="2026-01-01T00:00:00+01:00", per="month")
    assert months["since_time"] == "2025-12-31T23:00:00Z"
    assert [row["requested"] for row in months["rows"]] == [1]
    empty = await used(stage, since="2026-01-01T00:00:00Z", until="2026-01-01T00:00:00Z")
    assert (empty["rows"], empty["total"]["agents"]) == ([], 0)


WRONG: list[tuple[dict[str, str], str, str]] = [
    (
        {"since": "yesterday"},
        "since",
        "a time (2026-11-24T14:03:00Z, or ms since 1970) was expected",
    ),
    ({"until": "2026-11-24T14:03:00"}, "until", "has no time zone"),
    ({"since": "10", "until": "9"}, "since", "after until"),
    ({"since": "9999-01-01T00:00:00Z"}, "since", "has not come yet"),
    ({"since": "0", "per": "hour"}, "per", "at most 1,000 parts"),
    ({"per": "week"}, "per", "hour"),
    ({"by": "team"}, "by[0]", "pool, role, project or label:NAME"),
    ({"by": "label:a,label:b"}, "by", "one label at a time, not a and b"),
    ({"limit": "0"}, "limit", "1"),
]
"""A question, the field that is wrong, and what the answer says of it."""


async def test_a_wrong_question_is_refused_with_its_field(
    stage: GatewayStage, subtests: pytest.Subtests
) -> None:
    for query, field, says in WRONG:
        with subtests.test(says):
            answer = await stage.get(USAGE, params=query)
            assert (answer.status, answer.fields) == (400, [field]), answer.body
            assert says in answer.json["detail"]


async def test_a_pool_that_never_was_is_not_found_and_a_used_one_is_answered(
    stage: GatewayStage,
) -> None:
    assert (await stage.get(USAGE, params={"pool_name": "none"})).kind == "pool-not-found"
    assert (await stage.get(f"{AGENTS}/pools/none/history")).kind == "pool-not-found"
    assert (await used(stage, pool_name=POOL))["rows"] == []


async def test_a_history_has_points_and_its_step_may_be_asked_for(stage: GatewayStage) -> None:
    fence = await stage.worker(WORKER)
    await stage.pending()
    await stage.run(fence)
    answer = await stage.get(HISTORY)
    assert answer.status == 200, answer.body
    history = answer.json
    assert (history["step"], len(history["points"])) == ("minute", 361)
    last = history["points"][-1]
    assert (last["agents"], last["slots_used"], last["slots"], last["workers"]) == (1, 1, 10, 1)
    assert sum(point["arrivals"] for point in history["points"]) == 1
    days = (await stage.get(HISTORY, params={"step": "day"})).json
    assert sum(point["arrivals"] for point in days["points"]) == 1
    refused = await stage.get(HISTORY, params={"step": "minute", "since": "0"})
    assert (refused.status, refused.fields) == (400, ["step"])
