"""`?as_of=` over HTTP: agents, pools and workers as they were, and what is refused."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import redis
from msgspec.structs import replace

from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage, gateway_stage
from tests.integration.projector.stage import POOL
from tests.pools import raw_events
from tests.waiting import until

WORKER = "01900000-0000-7000-8000-000000000001"


IMPATIENT = replace(QUICK, catch_up_seconds=0.5)
"""Where what is waited for does not come."""


@pytest.fixture
async def stage(redis_url, tmp_path):
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as shown:
        yield shown


async def passed(stage: GatewayStage) -> None:
    """Let the log's time go on by a millisecond: what comes next is later."""
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        last = int(client.hget(f"pool:{{{POOL}}}:meta", "ts") or 0)
        await until(lambda: _clock(client) > last, interval=0.001)


def _clock(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


async def everything(stage: GatewayStage, suffix: str = "") -> dict[str, Any]:
    """The registry's rows, without the fields of heartbeats."""
    paths = ["", "?include_ended=true", "/pools", f"/pools/{POOL}", "/workers"]
    paths.append("/workers?include_ended=true")
    found = {}
    for path in paths:
        joint = "&" if "?" in path else "?"
        answer = await stage.get(f"{AGENTS}{path}{joint}{suffix}" if suffix else f"{AGENTS}{path}")
        assert answer.status == 200, answer.body
        found[path] = answer.json
    return found


async def snapshots(stage: GatewayStage) -> list[tuple[int, int, dict[str, Any]]]:
    """Things happen; after each the pool's seq, its time, and what was answered then."""
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


def last_event(stage: GatewayStage) -> tuple[int, int]:
    """The pool's seq, and the time of the newest event of pool and catalogue."""
    with redis.Redis.from_url(stage.stage.redis_url) as client:
        seq, ts = client.hmget(f"pool:{{{POOL}}}:meta", "seq", "ts")
        other = client.hget("{muster:catalogue}:meta", "ts")
    return int(seq or 0), max(int(ts or 0), int(other))


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
        assert one.json == row
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
    seen = []
    while path:
        answer = await stage.get(path)
        seen += [row["agent_id"] for row in answer.json["agents"]]
        assert (await stage.ask("DELETE", f"{AGENTS}/{ids[len(seen) - 1]}")).status == 200
        await stage.pending()
        path = answer.json["next"]
        if path:
            assert parse_qs(urlsplit(path).query)["as_of"] == [answer.headers["Muster-As-Of"]]
    assert seen == ids


async def test_workers_are_paged_and_filtered(stage):
    for name in ("w1", "w2", "w3"):
        await stage.worker(name)
    await stage.stage.settle(POOL)
    for suffix in ("", f"&as_of={POOL}:{last_event(stage)[0]}"):
        first = (await stage.get(f"{AGENTS}/workers?limit=2{suffix}")).json
        second = (await stage.get(first["next"])).json
        listed = [worker["worker_id"] for worker in first["workers"] + second["workers"]]
        assert (listed, second["next"]) == (["w1", "w2", "w3"], None)
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
    assert (await stage.get(f"{AGENTS}/pools?as_of=0")).json == {"pools": []}
    answer = await stage.get(f"{AGENTS}/pools/{POOL}?as_of=1000")
    assert (answer.status, answer.kind) == (404, "pool-not-found")
    absent = await stage.get(f"{AGENTS}/{WORKER}?as_of={POOL}:{seq}")
    assert (absent.status, absent.kind) == (404, "agent-not-found")


NO_POINT_IN_TIME = (
    "",
    "yesterday",
    "2026-11-24T14:03:00",
    "a:b",
    f"{POOL}:-1",
    "1,2",
    f"{POOL}:1,{POOL}:2",
    ":1,:1:2",
    "9" * 16,
    "UPPER:1",
    ":::",
)


async def test_a_point_in_time_that_cannot_be_read_is_refused_by_name(stage, subtests):
    for text in NO_POINT_IN_TIME:
        with subtests.test(text):
            answer = await stage.get(f"{AGENTS}?as_of={quote(text)}")
            assert (answer.status, answer.kind, answer.fields) == (
                400,
                "invalid-request",
                ["as_of"],
            )


async def test_what_has_not_come_yet_is_waited_for_and_then_refused(stage):
    """A position beyond the log; a time in the future; one that comes soon."""
    await stage.pending()
    stage.backend.limits = IMPATIENT
    for text in (f"{POOL}:99", f"{POOL}:7:1", str(int(time.time() * 1000) + 60_000)):  # one waits
        answer = await stage.get(f"{AGENTS}?as_of={text}")
        assert (answer.status, answer.kind) == (422, "as-of-not-reached"), text
        assert answer.fields == ["as_of"]
    stage.backend.limits = QUICK
    soon = await stage.get(f"{AGENTS}?as_of={int(time.time() * 1000) + 300}")
    assert len(soon.json["agents"]) == 1
    waiting = asyncio.ensure_future(stage.get(f"{AGENTS}?as_of={POOL}:2"))
    await stage.pending()
    assert len((await waiting).json["agents"]) == 2


async def test_a_pool_that_never_was_is_refused_at_once(stage):
    """Waiting for it would be in vain. A time of day without its date is read as one."""
    began = time.monotonic()
    for text, pool in (("nope:3", "nope"), ("14:03", "14"), (f"{POOL}:0,nope:1", "nope")):
        answer = await stage.get(f"{AGENTS}?as_of={text}")
        assert (answer.status, answer.kind, answer.fields) == (400, "invalid-request", ["as_of"])
        assert answer.json["detail"].startswith(f"as_of: there is no pool '{pool}' (a time is 2026")
    assert time.monotonic() - began < QUICK.catch_up_seconds


async def test_a_time_in_the_future_is_refused_with_the_time_it_is(stage):
    answer = await stage.get(f"{AGENTS}?as_of={int(time.time() * 1000) + 60_000}")
    said = re.fullmatch(
        r"it is not that late yet: the log's time is (\S+) \((\d+) ms\)", answer.json["detail"]
    )
    assert said is not None, answer.json["detail"]
    assert datetime.fromisoformat(said[1]).timestamp() * 1000 == int(said[2])


async def test_a_time_is_answered_only_when_the_archive_has_passed_it(redis_url, database_url):
    """The projector starts late: without it the answer says that it may lack something."""
    async with gateway_stage(redis_url, database_url, projecting=False, limits=IMPATIENT) as stage:
        await stage.spawn(prefer="respond-async")
        now = last_event(stage)[1]
        await passed(stage)
        answer = await stage.get(f"{AGENTS}?as_of={now}")
        assert (answer.json["agents"], answer.headers["Muster-Stale"]) == ([], "true")
        stage.backend.limits = QUICK
        await stage.projector.start()
        answer = await stage.get(f"{AGENTS}?as_of={now}")
        assert (len(answer.json["agents"]), answer.headers.get("Muster-Stale")) == (1, None)


async def test_the_past_is_answered_without_redis_as_far_as_it_is_archived(
    redis_server, database_url
):
    server = redis_server()
    async with gateway_stage(server.url, database_url) as stage:
        await stage.pending()
        await stage.stage.settle(POOL)
        seq, early = last_event(stage)
        await passed(stage)
        await stage.pending()
        await stage.stage.settle(POOL)
        late = last_event(stage)[1]
        await passed(stage)
        server.stop()
        answer = await stage.get(f"{AGENTS}?as_of={POOL}:{seq}")
        assert (len(answer.json["agents"]), answer.headers.get("Muster-Stale")) == (1, None)
        one = await stage.get(f"{AGENTS}?pool_name={POOL}&as_of={early}")
        assert len(one.json["agents"]) == 1
        answer = await stage.get(f"{AGENTS}?as_of={late}")
        assert (len(answer.json["agents"]), answer.headers["Muster-Stale"]) == (2, "true")


async def test_an_archive_that_lost_its_beginning_says_from_where_on_it_is_complete(stage):
    for _ in range(4):
        await stage.pending()
    await stage.stage.settle(POOL)
    first, second, third, _ = raw_events(stage.stage.redis_url)
    await stage.stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq <= 2")
    for path in ("?", "/workers?", "/pools?", f"/pools/{POOL}?", f"/{first['subject']}?"):
        answer = await stage.get(f"{AGENTS}{path}as_of={POOL}:4")
        assert (answer.status, answer.kind) == (410, "archive-incomplete"), path
        said = f"pool '{POOL}': the archive is complete from seq 3 on ({third['ts']} ms)"
        assert answer.json["detail"] == said
    full = await stage.get(f"{AGENTS}/{third['subject']}?as_of={POOL}:4")
    assert full.json["status"] == "pending"
    assert second["subject"] != third["subject"]


async def test_the_document_describes_the_point_in_time_and_the_refusals(stage):
    paths = (await stage.get("/openapi.json")).json["paths"]
    for path in (
        "",
        "/{agent_id}",
        "/project/{project_id}",
        "/pools",
        "/pools/{pool_name}",
        "/workers",
    ):
        described = paths[f"{AGENTS}{path}"]["get"]
        named = [p["name"] for p in described["parameters"] if p["in"] == "query"]
        assert "as_of" in named, path
        assert {"200", "400", "410", "422", "503"} <= described["responses"].keys()
