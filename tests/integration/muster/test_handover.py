"""The change-over between two real logs: what goes, what is named, what may go wrong between."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import redis
from msgspec.structs import replace

from eventstore.errors import ConfigurationError, LogError
from eventstore.ids import new_id
from eventstore.language.agent_commands import End, Fail, Started, Terminate
from eventstore.language.events import AgentRequested, Error
from eventstore.log.replies import Outcome
from gateway.fallback import read_handover_failures
from muster.fallback import asking, last_seen
from muster.fallback.outbox import KEEP_MS, Entry, Key, Result
from muster.fallback.primary_log import PrimaryLog
from muster.process.roles import prepare
from muster.settings.settings import Settings
from projector.queries.views import Views
from projector.recovery.recovery import RecoveryOptions, recover
from projector.service.active import ProjectorOptions
from projector.service.projector import Projector
from tests.conftest import MakeServer
from tests.integration.muster.fallback_stage import (
    DAY,
    NARROW,
    OTHER,
    POLICY,
    POOL,
    TESTERS,
    Fallback,
    change_over,
    ids,
    settings_on,
    spawn_for_real,
)
from tests.pools import ORIGIN, raw_events


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Settings:
    monkeypatch.chdir(tmp_path)
    return settings_on(redis_url, tmp_path)


# ---- what goes over, and how -----------------------------------------------------------------


async def test_all_that_lives_goes_over_as_it_was_asked_for(settings: Settings) -> None:
    """Waiting, running under a worker that was killed, or between two tries: all the same."""
    async with Fallback(settings) as fallback:
        log = fallback.log
        running, failing = await fallback.spawn(), await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        for claimed in await fallback.pool.claim(fence):
            await log.act(POOL, claimed.agent.agent_id, Started(), ORIGIN, fence=fence)
        crash = Fail(during="run", error=Error(type="E"), now_ms=log.now_ms(POOL), policy=POLICY)
        await log.act(POOL, failing, crash, ORIGIN, fence=fence)
        waiting = await fallback.spawn(
            key=DAY,
            digest="d",
            project="apollo",
            labels={"team": "red"},
            input=msgspec.Raw(b'{"task":[1]}'),
            max_idle_time=None,
            heartbeat_interval=12.5,
        )
    said = await change_over(settings)
    assert "3 handed over" in said[0]
    assert ids(settings.redis_url) == sorted([running, failing, waiting])
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as real:
        known = real.hgetall(f"agent:{{{POOL}}}:{waiting}")
        assert (known["status"], known["incarnation"], known["project_id"]) == (
            "pending", "1", "apollo",
        )  # fmt: skip
        assert (known["heartbeat_interval"], known["max_idle_time"]) == ("12.5", "")
        spec = json.loads(real.get(f"pool:{{{POOL}}}:spec:{waiting}"))
        assert spec == {"input": {"task": [1]}, "labels": {"team": "red"}}
        key = f"pool:{{{POOL}}}:operation:{DAY}"
        assert real.hmget(key, "digest", "answer") == ["d", waiting]
        assert 86_000_000 < real.pttl(key) <= 86_400_000
        assert real.xlen(f"pool:{{{POOL}}}:commands") == 3


async def test_what_came_and_went_is_known_to_who_repeats_its_key_and_does_not_run(
    settings: Settings,
) -> None:
    async with Fallback(settings) as fallback:
        gone, forgotten = await fallback.spawn(key=DAY, digest="d"), await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        await fallback.pool.claim(fence)
        for agent_id in (gone, forgotten):
            await fallback.log.act(POOL, agent_id, Started(), ORIGIN, fence=fence)
            done = End(reason="completed")
            await fallback.log.act(POOL, agent_id, done, ORIGIN, fence=fence)
    settings = replace(settings, retention_ended_seconds=30.0)
    assert "1 recorded as ended" in (await change_over(settings))[0]
    events = raw_events(settings.redis_url)
    assert [(event["type"], event["subject"]) for event in events] == [
        ("agent.requested", gone),
        ("agent.terminated", gone),
    ]
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as real:
        assert real.hget(f"pool:{{{POOL}}}:operation:{DAY}", "answer") == gone
        assert real.xlen(f"pool:{{{POOL}}}:commands") == 0
        assert real.smembers(f"pool:{{{POOL}}}:agents") == set()
        assert 0 < real.pttl(f"agent:{{{POOL}}}:{gone}") <= 30_000
    assert not settings.handover_failures_file.exists()


# ---- what is named ---------------------------------------------------------------------------


async def test_what_cannot_go_over_is_named_with_its_reason(settings: Settings) -> None:
    """In what is said, in a file that an alert is made of, and in the report."""
    before = await spawn_for_real(settings, key=DAY, digest="d")
    async with Fallback(settings) as fallback:
        twice = await fallback.spawn(key=DAY, digest="d")
        flagged = await fallback.spawn()
        fence = await fallback.pool.worker("w1")
        await fallback.pool.claim(fence)  # both, so that its end has to be waited for
        await fallback.log.act(POOL, flagged, Terminate(), ORIGIN)
        homeless = await fallback.spawn(await fallback.make(OTHER))
        mistaken = await fallback.spawn(await fallback.make(TESTERS, "configuration"))
        narrow = await fallback.make(NARROW, "configuration")
        first = await fallback.spawn(narrow)
        await asyncio.sleep(0.005)  # ids of one millisecond have no order
        second = await fallback.spawn(narrow)
    said = "\n".join(await change_over(settings))
    assert "1 handed over, 1 ended as had been asked for, 4 not handed over" in said
    reasons = {
        twice: f"its Idempotency-Key is known in the real log, for agent {before}",
        homeless: f"the real log has no pool {OTHER!r}",
        mistaken: "pool 'tester_pool' of the real log is for role 'tester'",
        second: f"pool {NARROW!r} takes no more",
    }
    found = read_handover_failures(str(settings.handover_failures_file))
    assert found is not None
    told = {one.agent_id or one.pool_name: one.description for one in found.left}
    assert sorted(told) == sorted([*reasons, OTHER])
    for agent_id, reason in reasons.items():
        assert f"agent {agent_id} of pool" in told[agent_id]
        assert reason in told[agent_id]
        assert told[agent_id] in said
    assert "it is not in the real log" in told[OTHER]
    assert ids(settings.redis_url) == [before]
    assert ids(settings.redis_url, pool=NARROW) == [first]
    assert ended_as(Path(found.report)) == {
        **dict.fromkeys([twice, homeless, mistaken, second], "not-handed-over"),
        flagged: "requested",
        first: "handed-over",
    }


def ended_as(folder: Path) -> dict[str, str]:
    """How the fallback's own archive says that its agents ended."""
    with sqlite3.connect(f"file:{folder / 'views.db'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT subject, data FROM events WHERE type = 'agent.terminated'"
        ).fetchall()
    return {subject: json.loads(data)["reason"] for subject, data in rows}


# ---- asking the real log again ---------------------------------------------------------------


@asynccontextmanager
async def taking(settings: Settings) -> AsyncIterator[PrimaryLog]:
    await prepare(settings)
    taker = PrimaryLog(settings.redis_url, "", "a-fallback", settings.roles, settings.retention)
    try:
        await taker.start()
        yield taker
    finally:
        await taker.close()


def entry(key: str = "") -> Entry:
    """An agent that was given and whose outcome nobody noted."""
    now = int(time.time() * 1000)
    asked = Key(operation_id=key, digest="d", expires_ms=now + 60_000) if key else None
    request = AgentRequested(role_type="developer", project_id="p")
    return Entry(pool_name=POOL, agent_id=new_id(), request=request, since_ms=now, key=asked)


async def test_an_agent_that_came_and_went_since_is_not_asked_for_again(
    settings: Settings,
) -> None:
    """Its hash is gone from the real log, and its client gave no key: the log still knows."""
    given = entry()
    async with taking(settings) as taker:
        assert (await taker.submit(given, given.since_ms)).result is Result.HANDED_OVER
        log = taker._log
        assert (await log.act(POOL, given.agent_id, Terminate(), ORIGIN)).outcome is Outcome.DONE
        with redis.Redis.from_url(settings.redis_url) as real:
            assert real.delete(f"agent:{{{POOL}}}:{given.agent_id}") == 1
        assert (await taker.submit(given, given.since_ms)).result is Result.HANDED_OVER
        month = given.since_ms + KEEP_MS
        late = await taker.submit(given, month)
        assert (late.result, "not known any more" in late.reason) == (Result.LEFT, True)
    assert ids(settings.redis_url) == [given.agent_id]


async def test_a_key_that_became_known_meanwhile_belongs_to_who_came_first(
    settings: Settings,
) -> None:
    given = entry(DAY)
    first = await spawn_for_real(settings, key=DAY, digest="d")
    async with taking(settings) as taker:
        taken = await taker.submit(given, given.since_ms)
    assert (taken.result, first in taken.reason) == (Result.LEFT, True)
    assert ids(settings.redis_url) == [first]


# ---- what may go wrong between ---------------------------------------------------------------


async def test_redis_that_goes_away_midway_leaves_each_agent_in_one_of_the_logs(
    settings: Settings, redis_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fallback would go on with is what the real log was never asked for."""
    server = redis_server(appendfsync="always")
    settings = replace(settings, redis_url=server.url)
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(6)]
    whole = PrimaryLog.submit

    async def cut_off(self: PrimaryLog, entry: Entry, now_ms: int) -> Entry:
        if len(ids(server.url)) == 2:
            server.kill9()
        return await whole(self, entry, now_ms)

    with monkeypatch.context() as patched:
        patched.setattr(asking, "CONCURRENCY", 1)
        patched.setattr(PrimaryLog, "submit", cut_off)
        with pytest.raises(LogError, match=r"went away during the change-over.*the next start"):
            await change_over(settings)
    async with Fallback(settings) as fallback:
        alive = await fallback.log.live(POOL)
    server.start()
    there = ids(server.url)
    assert (len(there), len(alive)) == (2, 3)
    assert set(there) & set(alive) == set()
    assert "6 handed over" in (await change_over(settings))[0]
    assert ids(server.url) == sorted(every)


async def test_a_redis_at_its_memory_limit_is_waited_for(
    settings: Settings, redis_server: MakeServer
) -> None:
    """The start goes on without what waits; an alert tells; the next start goes on with it."""
    server = redis_server()
    settings = replace(settings, redis_url=server.url)
    await prepare(settings)
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(3)]
    with server.client() as real:
        real.config_set("maxmemory", 1)
        said = await change_over(settings)
        assert "3 still to be handed over" in said[0]
        assert f"pool {POOL!r}: it waits for the next start" in "".join(said)
        assert read_handover_failures(str(settings.handover_failures_file)) is not None
        assert ids(server.url) == []
        real.config_set("maxmemory", 0)
    assert "3 handed over" in (await change_over(settings))[0]
    assert ids(server.url) == sorted(every)
    assert not settings.handover_failures_file.exists()


async def test_a_redis_that_came_back_emptied_is_not_taken_for_the_real_one(
    settings: Settings,
) -> None:
    """Nothing is written there, so that it can still be recovered; the fallback is kept."""
    url = settings.redis_url
    known = last_seen.LastSeen(redis_url=url, generation=1, seq=4)
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(known))
    async with Fallback(settings) as fallback:
        agent_id = await fallback.spawn()
    with pytest.raises(
        ConfigurationError, match=r"is empty, but its catalogue was seen at generation 1, seq 4"
    ):
        await change_over(settings)
    with redis.Redis.from_url(url) as real:
        assert real.dbsize() == 0
    (settings.data_dir / last_seen.NAME).unlink()
    await change_over(settings)
    assert ids(url) == [agent_id]


async def test_a_real_log_that_lost_writes_is_recovered_first(settings: Settings) -> None:
    """What it took in before that would be gone again; what it had before is there again."""
    before = await spawn_for_real(settings)
    await archived(settings)
    async with Fallback(settings) as fallback:
        agent_id = await fallback.spawn()
    with redis.Redis.from_url(settings.redis_url) as real:
        real.flushall()
    said = "".join(await change_over(settings))
    assert "it waits for the next start: the real log has lost writes" in said
    assert fallback.folder.used
    options = RecoveryOptions(redis_url=settings.redis_url, database_url=settings.views_url)
    await recover(options, lambda _: None)
    assert "1 handed over" in (await change_over(settings))[0]
    assert ids(settings.redis_url) == sorted([before, agent_id])
    assert not settings.handover_failures_file.exists()


async def test_a_real_log_that_was_rolled_back_is_recovered_first(settings: Settings) -> None:
    """It looks whole; the archive knows more."""
    await spawn_for_real(settings)
    await archived(settings)
    async with Fallback(settings) as fallback:
        await fallback.spawn()
        await fallback.spawn(await fallback.make(NARROW))
    with redis.Redis.from_url(settings.redis_url) as real:
        real.hset(f"pool:{{{POOL}}}:meta", "seq", 0)
        real.xtrim(f"pool:{{{POOL}}}:events", maxlen=0)
    said = "".join(await change_over(settings))
    assert f"pool {POOL!r}: it waits for the next start: rolled back" in said
    assert (ids(settings.redis_url), len(ids(settings.redis_url, pool=NARROW))) == ([], 1)
    assert fallback.folder.used


async def test_a_catalogue_that_is_behind_what_was_seen_is_waited_for(settings: Settings) -> None:
    """Also where the archive does not know better: it may be behind as well."""
    await prepare(settings)
    known = last_seen.LastSeen(redis_url=settings.redis_url, generation=1, seq=99)
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(known))
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    said = "".join(await change_over(settings))
    assert "but 1, 99 was seen: Redis has lost writes" in said
    assert ids(settings.redis_url) == []
    assert fallback.folder.used


async def archived(settings: Settings) -> None:
    """Have all that stands in the real log archived, as a projector does."""
    options = ProjectorOptions(redis_url=settings.redis_url, database_url=settings.views_url)
    projector, views = Projector(options), Views(settings.views_url)
    await projector.start()
    await views.start()
    try:
        assert await views.wait_for(POOL, 1, timeout_seconds=10)
    finally:
        await projector.stop()
        await views.stop()


async def test_leftovers_of_several_fallbacks_stand_beside_each_other(settings: Settings) -> None:
    for number in (1, 2):
        async with Fallback(settings) as fallback:
            await fallback.spawn(await fallback.make(OTHER))
        await change_over(settings)
        found = read_handover_failures(str(settings.handover_failures_file))
        assert found is not None
        assert len([one for one in found.left if one.agent_id]) == number


async def test_a_fallback_whose_identity_is_gone_is_neither_begun_anew_nor_passed_over(
    settings: Settings,
) -> None:
    """Under another identity its agents could be asked for twice; passed over, they were lost."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
        (fallback.folder.path / "identity.json").unlink()
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        fallback.folder.open("redis://real", "again")
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        await change_over(settings)
    assert ids(settings.redis_url) == []


async def test_a_fallback_whose_log_is_damaged_is_not_passed_over(settings: Settings) -> None:
    """Somebody has to decide: its agents would be lost without a word."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    [manifest] = fallback.folder.path.glob("redis/*/*.manifest")
    manifest.write_text("not a manifest\n")
    with pytest.raises(ConfigurationError, match=r"cannot be opened.*move the folder away"):
        await change_over(settings)
    assert fallback.folder.used
