"""`?as_of=` over HTTP: agents, pools and workers as they were."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from eventstore.keys import CATALOGUE
from tests.integration.gateway.log_time import last_event, passed
from tests.integration.gateway.stage import AGENTS, GatewayStage, gateway_stage
from tests.integration.projector.stage import POOL

WORKER = "01900000-0000-7000-8000-000000000001"


async def everything(stage: GatewayStage, suffix: str = "") -> dict[str, Any]:
    """The registry's rows, without the fields of heartbeats."""
    paths = ["", "?include_ended=true", "/pools", f"/pools/{POOL}", "/workers"]
    paths.append("/workers?include_ended=true")

    async def one(path: str) -> Any:
        joint = "&" if "?" in path else "?"
        answer = await stage.get(f"{AGENTS}{path}{joint}{suffix}" if suffix else f"{AGENTS}{path}")
        assert answer.status == 200, answer.body
        return answer.json

    return dict(zip(paths, await asyncio.gather(*map(one, paths)), strict=True))


async def snapshots(stage: GatewayStage) -> list[tuple[int, int, dict[str, Any]]]:
    """Make changes; after each the pool's seq, its time, and what was answered then."""
    fence, states = None, []
    ids: list[str] = []
    for act in ("worker", "spawn", "spawn", "run", "spawn", "change", "end", "worker2", "run2"):
        if act == "worker":
            fence = await stage.worker(WORKER)
        elif act == "worker2":
            fence = await stage.worker("w2", slots=1)
        elif act == "spawn":
            ids.append(await stage.pending(labels={"n": str(len(ids))}))
        elif act == "change":
            config = {"config": {"max_workers": len(ids)}}
            assert (await stage.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=config)).status == 200
        elif act == "end":
            assert (await stage.ask("DELETE", f"{AGENTS}/{ids[-1]}")).status == 200
        else:
            assert fence is not None
            if act == "run2":
                await stage.pending()
            await stage.run(fence)
        await stage.stage.settle(POOL)
        seq, ts = last_event(stage)
        states.append((seq, ts, await everything(stage)))
        await passed(stage)
    return states


async def test_every_answer_about_the_past_is_the_answer_of_that_time(redis_url, database_url):
    """By time and, where nothing else happened since, by position; in bodies of the same shape."""
    async with gateway_stage(redis_url, database_url) as stage:
        states = await snapshots(stage)
        for index, (seq, ts, then) in enumerate(states):
            assert await everything(stage, f"as_of={ts}") == then, index
            if seq and (index == 0 or states[index - 1][0] != seq):
                assert await everything(stage, f"as_of={POOL}:{seq}") == then, index
        [row] = states[1][2][""]["agents"]
        one = await stage.get(f"{AGENTS}/{row['agent_id']}?as_of={states[1][1]}")
        assert one.json == {**row, "input": {}}
        project = await stage.get(f"{AGENTS}/project/{row['project_id']}?as_of={states[1][1]}")
        assert project.json["agents"] == [row]
        assert row["status"] == "pending"
        assert (await stage.get(f"{AGENTS}/{row['agent_id']}")).json["status"] == "running"


async def test_a_time_may_be_written_in_any_zone_and_the_answer_names_its_position(stage):
    await stage.pending()
    await stage.stage.settle(POOL)
    seq, ts = last_event(stage)
    await passed(stage)
    await stage.pending()
    await stage.stage.settle(POOL)
    then = datetime.fromtimestamp(ts / 1000, UTC)
    elsewhere = then.astimezone(timezone(timedelta(hours=5, minutes=30)))
    for text in (str(ts), then.isoformat(), quote(elsewhere.isoformat()), elsewhere.isoformat()):
        answer = await stage.get(f"{AGENTS}?as_of={text}")
        assert len(answer.json["agents"]) == 1, text
        assert answer.headers["Muster-As-Of"].partition(",")[0] == str(ts)
        assert f"{POOL}:{seq}" in answer.headers["Muster-Position"].split(",")
        assert "Muster-Stale" not in answer.headers
    position = answer.headers["Muster-Position"]
    for point in (position, answer.headers["Muster-As-Of"], f"{POOL}:1:{seq}"):
        again = await stage.get(f"{AGENTS}?as_of={quote(point)}")
        assert again.json == answer.json, point


async def test_a_time_before_all_that_can_be_recorded_can_be_asked_for_again(stage):
    first = await stage.get(f"{AGENTS}?as_of=1960-01-01T00:00:00Z")
    again = await stage.get(f"{AGENTS}?as_of={quote(first.headers['Muster-As-Of'])}")
    assert (again.status, again.json) == (200, first.json)


@pytest.mark.parametrize("as_of", ["time", "position"])
async def test_pages_of_the_past_stay_consistent_while_agents_come_and_go(stage, as_of):
    ids = sorted([await stage.pending() for _ in range(5)])
    await stage.stage.settle(POOL)
    seq, ts = last_event(stage)
    await passed(stage)
    path = f"{AGENTS}?limit=2&as_of={ts if as_of == 'time' else f'{POOL}:{seq}'}"
    listed = []
    while path:
        answer = await stage.get(path)
        listed += [row["agent_id"] for row in answer.json["agents"]]
        assert (await stage.ask("DELETE", f"{AGENTS}/{ids[len(listed) - 1]}")).status == 200
        await stage.pending()
        path = answer.json["next"]
        if path:
            assert parse_qs(urlsplit(path).query)["as_of"] == [answer.headers["Muster-As-Of"]]
    assert listed == ids


async def test_workers_are_paged_and_filtered(stage):
    for name in ("w1", "w2", "w3"):
        await stage.worker(name)
    await stage.stage.settle(POOL)
    for suffix in ("", f"&as_of={POOL}:{last_event(stage)[0]}"):
        first = (await stage.get(f"{AGENTS}/workers?limit=2{suffix}")).json
        second = (await stage.get(first["next"])).json
        listed = [worker["worker_id"] for worker in first["workers"] + second["workers"]]
        assert (listed, second["next"]) == (["w1", "w2", "w3"], None)
    await stage.stage.pool("other")
    await stage.stage.settle(CATALOGUE)
    for suffix in ("", f"&as_of={POOL}:{last_event(stage)[0]}"):
        other = await stage.get(f"{AGENTS}/workers?pool_name=other{suffix}")
        assert other.json == {"workers": [], "next": None}


async def test_what_was_not_there_yet_is_not_found(stage):
    await stage.worker()
    seq = last_event(stage)[0]
    agent_id = await stage.pending()
    await stage.stage.settle(POOL)
    answer = await stage.get(f"{AGENTS}/{agent_id}?as_of={POOL}:{seq}")
    assert (answer.status, answer.kind) == (404, "agent-not-found")
    assert (await stage.get(f"{AGENTS}?as_of=0")).json["agents"] == []
    assert (await stage.get(f"{AGENTS}/pools?as_of=0")).json["pools"] == []
    answer = await stage.get(f"{AGENTS}/pools/{POOL}?as_of=1000")
    assert (answer.status, answer.kind) == (404, "pool-not-found")
    absent = await stage.get(f"{AGENTS}/{WORKER}?as_of={POOL}:{seq}")
    assert (absent.status, absent.kind) == (404, "agent-not-found")
