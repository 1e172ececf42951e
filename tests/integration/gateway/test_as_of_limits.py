"""`?as_of=` that cannot be answered, or not yet, or not completely."""

import asyncio
import re
import time
from datetime import datetime
from urllib.parse import quote

from msgspec.structs import replace

from tests.integration.gateway.log_time import last_event, passed
from tests.integration.gateway.stage import AGENTS, QUICK, gateway_stage
from tests.integration.projector.stage import POOL
from tests.pools import raw_events

IMPATIENT = replace(QUICK, catch_up_seconds=0.5)
"""Where the test waits for what does not come."""
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
    """A position beyond the log; a time in the future; one that is reached soon."""
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


async def test_a_pool_that_never_existed_is_refused_at_once(stage):
    """Waiting for it would be in vain. A time of day without a date is read as a pool."""
    started = time.monotonic()
    for text, pool in (("nope:3", "nope"), ("14:03", "14"), (f"{POOL}:0,nope:1", "nope")):
        answer = await stage.get(f"{AGENTS}?as_of={text}")
        assert (answer.status, answer.kind, answer.fields) == (400, "invalid-request", ["as_of"])
        assert answer.json["detail"].startswith(f"as_of: no pool `{pool}`")
    assert time.monotonic() - started < QUICK.catch_up_seconds


async def test_a_time_in_the_future_is_refused_with_the_current_time(stage):
    answer = await stage.get(f"{AGENTS}?as_of={int(time.time() * 1000) + 60_000}")
    named = re.fullmatch(
        r"it is not that late yet: the log's time is (\S+) \((\d+) ms\)", answer.json["detail"]
    )
    assert named is not None, answer.json["detail"]
    assert datetime.fromisoformat(named[1]).timestamp() * 1000 == int(named[2])


async def test_an_archive_that_lost_its_beginning_says_from_where_on_it_is_complete(stage):
    for _ in range(4):
        await stage.pending()
    await stage.stage.settle(POOL)
    first, second, third, _ = raw_events(stage.stage.redis_url)
    await stage.stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq <= 2")
    for path in ("?", "/workers?", "/pools?", f"/pools/{POOL}?", f"/{first['subject']}?"):
        answer = await stage.get(f"{AGENTS}{path}as_of={POOL}:4")
        assert (answer.status, answer.kind) == (410, "archive-incomplete"), path
        detail = f"pool '{POOL}': the archive is complete from seq 3 on ({third['ts']} ms)"
        assert answer.json["detail"] == detail
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
        every = await stage.get(f"{AGENTS}?as_of={late},{POOL}:{seq},:1")  # no log by its time
        assert (every.status, len(every.json["agents"])) == (200, 1)
