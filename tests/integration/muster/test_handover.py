"""The handover between two real logs: what is handed over, what is named, what may go wrong."""

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

from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError, LogError
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language.agent_commands import End, Fail, Started, Terminate
from eventstore.language.events import AgentRequested, AgentTerminated, Error
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.submission import submit
from gateway.fallback import read_handover_failures
from muster.fallback import directory, last_seen
from muster.fallback.inventory import Entry, Result
from muster.fallback.primary_log import OPERATION_MS, PrimaryLog
from muster.process.log_preparation import prepare
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
    do_handover,
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
    lines = await do_handover(settings)
    assert "3 handed over" in lines[0]
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


async def test_a_repeated_key_of_an_ended_agent_is_known_and_runs_nothing(
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
    assert "1 recorded as ended" in (await do_handover(settings))[0]
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
    printed = "\n".join(await do_handover(settings))
    assert "1 handed over, 4 not handed over" in printed
    reasons = {
        twice: f"its Idempotency-Key is known in the real log, for agent {before}",
        homeless: f"the real log has no pool {OTHER!r}",
        mistaken: "pool 'tester_pool' of the real log is for role 'tester'",
        second: f"pool {NARROW!r} takes no more",
    }
    found = read_handover_failures(str(settings.handover_failures_file))
    assert found is not None
    described = {one.agent_id or one.pool_name: one.description for one in found.left}
    assert sorted(described) == sorted([*reasons, OTHER])
    for agent_id, reason in reasons.items():
        assert f"agent {agent_id} of pool" in described[agent_id]
        assert reason in described[agent_id]
        assert described[agent_id] in printed
    assert "it is not in the real log" in described[OTHER]
    assert ids(settings.redis_url) == [before]
    assert ids(settings.redis_url, pool=NARROW) == [first]
    assert archived_spawns(Path(found.report)) == sorted(
        [twice, flagged, homeless, mistaken, first, second]
    )


def archived_spawns(folder: Path) -> list[str]:
    """The agents that were asked for in a fallback, as its own archive has them."""
    with sqlite3.connect(f"file:{folder / 'views.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT subject FROM events WHERE type = 'agent.requested'")
        return sorted(subject for (subject,) in rows)


# ---- submitting again ------------------------------------------------------------------------


@asynccontextmanager
async def primary(settings: Settings) -> AsyncIterator[PrimaryLog]:
    await prepare(settings)
    log = PrimaryLog(settings, "a-fallback")
    try:
        await log.start()
        yield log
    finally:
        await log.close()


def listed(key: str = "") -> Entry:
    """An agent of a retired fallback."""
    now = int(time.time() * 1000)
    request = AgentRequested(role_type="developer", project_id="p", operation_id=key, digest="d")
    return Entry(
        pool_name=POOL,
        agent_id=new_id(),
        request=request,
        since_ms=now,
        key_expires_ms=now + 60_000 if key else 0,
    )


async def test_an_agent_that_was_handed_over_and_ended_since_does_not_run_again(
    settings: Settings,
) -> None:
    """Its hash is gone from the real log, and its client gave no key: the log still knows."""
    entry = listed()
    async with primary(settings) as log:
        assert (await log.submit(entry)).result is Result.HANDED_OVER
        ended = await log._log.act(POOL, entry.agent_id, Terminate(), ORIGIN)
        assert ended.outcome is Outcome.DONE
        with redis.Redis.from_url(settings.redis_url) as real:
            assert real.delete(f"agent:{{{POOL}}}:{entry.agent_id}") == 1
        assert (await log.submit(entry)).result is Result.HANDED_OVER
        late = await log.submit(replace(entry, since_ms=entry.since_ms - OPERATION_MS))
        assert (late.result, "not known any more" in late.reason) == (Result.REFUSED, True)
    assert ids(settings.redis_url) == [entry.agent_id]


async def test_a_key_that_the_real_log_learnt_meanwhile_belongs_to_its_first_request(
    settings: Settings,
) -> None:
    entry = listed(DAY)
    first = await spawn_for_real(settings, key=DAY, digest="d")
    async with primary(settings) as log:
        refused = await log.submit(entry)
    assert (refused.result, first in refused.reason) == (Result.REFUSED, True)
    assert ids(settings.redis_url) == [first]


async def test_a_client_that_repeats_its_request_is_answered_with_the_same_agent(
    settings: Settings,
) -> None:
    """Also one without a key of its own, which repeats what came without an answer."""
    async with Fallback(settings) as fallback:
        keyed = await fallback.spawn(key=DAY, digest="d")
        unkeyed = await submit(
            fallback.log,
            fallback.pool.pool,
            AgentRequested(role_type="developer", project_id="p"),
            ORIGIN,
            agent_id=new_id(),
            operation_id="key:made-by-the-gateway",
            digest="d",
        )
    await do_handover(settings)
    assert await spawn_for_real(settings, key=DAY, digest="d") == keyed
    again = await spawn_for_real(settings, key="key:made-by-the-gateway", digest="d")
    assert again == unkeyed.agent_id
    assert ids(settings.redis_url) == sorted([keyed, unkeyed.agent_id])


async def test_what_an_older_version_began_to_hand_over_is_submitted_as_it_did(
    settings: Settings,
) -> None:
    """It ended each agent in the fallback first, and may or may not have been answered."""
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(3)]
        for agent_id in every[:2]:
            agent = await fallback.log.agent(POOL, agent_id)
            step = fallback.log.step(POOL, ORIGIN)
            step.agent(agent_id, agent, [AgentTerminated(reason="handed-over")])
            await fallback.log.commit(step)
        log_id = fallback.folder.identity().log_id
    await prepare(settings)
    client = connect(settings.redis_url)
    accepted = await submit(
        Log(client, Keys()),
        fallback.pool.pool,
        AgentRequested(role_type="developer", project_id="p"),
        ORIGIN,
        agent_id=every[0],
        operation_id=f"fallback:{log_id}:{every[0]}",
        digest="d",
    )
    assert accepted.outcome is Outcome.DONE
    await Log(client, Keys()).act(POOL, every[0], Terminate(), ORIGIN)
    await client.delete(f"agent:{{{POOL}}}:{every[0]}")
    await client.aclose()
    assert "3 handed over" in (await do_handover(settings))[0]
    assert ids(settings.redis_url) == sorted(every)


# ---- what may go wrong between ---------------------------------------------------------------


async def test_a_redis_lost_midway_gets_the_rest_later_and_the_log_is_not_served(
    settings: Settings, redis_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fallback starts empty; then both are handed over, and no agent is there twice."""
    server = redis_server(appendfsync="always")
    settings = replace(settings, redis_url=server.url)
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(6)]
    original = PrimaryLog.submit

    async def cut_off(self: PrimaryLog, entry: Entry) -> Entry:
        if len(ids(server.url)) == 2:
            server.kill9()
        return await original(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(PrimaryLog, "submit", cut_off)
        with pytest.raises(LogError, match=r"unreachable during the handover.*the next start"):
            await do_handover(settings)
    async with Fallback(settings) as second:
        assert await second.log.live(POOL) == []
        assert second.folder.identity() != fallback_identity(settings)
        every.append(await second.spawn())
    server.start()
    assert len(ids(server.url)) == 2
    first, later = [line for line in await do_handover(settings) if "handed over" in line]
    assert ("6 handed over" in first, "1 handed over" in later) == (True, True)
    assert ids(server.url) == sorted(every)
    assert directory.not_handed_over(settings.data_dir) == []


def fallback_identity(settings: Settings) -> directory.Identity:
    """Of the one that is retired."""
    [folder] = directory.retired(settings.data_dir)
    return folder.identity()


async def test_a_fallback_that_was_listed_but_not_retired_is_listed_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may serve again before that: nothing of it was submitted."""
    async with Fallback(settings) as fallback:
        before = await fallback.spawn()

    def killed(_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(directory.Folder, "retire", killed)
        with pytest.raises(InterruptedError):
            await do_handover(settings)
    assert ids(settings.redis_url) == []
    async with Fallback(settings) as fallback:
        after = await fallback.spawn()
    assert "2 handed over" in (await do_handover(settings))[0]
    assert ids(settings.redis_url) == sorted([before, after])


async def test_a_redis_at_its_memory_limit_is_waited_for(
    settings: Settings, redis_server: MakeServer
) -> None:
    """The start goes on without what waits; an alert names it; the next start goes on with it."""
    server = redis_server()
    settings = replace(settings, redis_url=server.url)
    await prepare(settings)
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(3)]
    with server.client() as real:
        real.config_set("maxmemory", 1)
        lines = await do_handover(settings)
        assert "3 still to be handed over" in lines[0]
        assert f"pool {POOL!r}: it waits for the next start" in "".join(lines)
        assert read_handover_failures(str(settings.handover_failures_file)) is not None
        assert ids(server.url) == []
        real.config_set("maxmemory", 0)
    assert "3 handed over" in (await do_handover(settings))[0]
    assert ids(server.url) == sorted(every)
    assert not settings.handover_failures_file.exists()


async def test_a_redis_that_came_back_emptied_is_not_used_as_the_real_one(
    settings: Settings,
) -> None:
    """Nothing is written there, so that it can still be recovered; the fallback is retained."""
    url = settings.redis_url
    known = last_seen.LastSeen(redis_url=url, generation=1, seq=4)
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(known))
    async with Fallback(settings) as fallback:
        agent_id = await fallback.spawn()
    with pytest.raises(
        ConfigurationError, match=r"is empty, but its catalogue was seen at generation 1, seq 4"
    ):
        await do_handover(settings)
    with redis.Redis.from_url(url) as real:
        assert real.dbsize() == 0
    (settings.data_dir / last_seen.NAME).unlink()
    await do_handover(settings)
    assert ids(url) == [agent_id]


async def test_a_real_log_that_lost_writes_is_recovered_first(settings: Settings) -> None:
    """What it took in before that would be gone again; what it had before is there again."""
    before = await spawn_for_real(settings)
    await archived(settings)
    async with Fallback(settings) as fallback:
        agent_id = await fallback.spawn()
    with redis.Redis.from_url(settings.redis_url) as real:
        real.flushall()
    printed = "".join(await do_handover(settings))
    assert "it waits for the next start: the real log has lost writes" in printed
    assert fallback.folder.exists
    options = RecoveryOptions(redis_url=settings.redis_url, database_url=settings.views_url)
    await recover(options, lambda _: None)
    assert "1 handed over" in (await do_handover(settings))[0]
    assert ids(settings.redis_url) == sorted([before, agent_id])
    assert not settings.handover_failures_file.exists()


async def test_a_real_log_that_was_rolled_back_is_recovered_first(settings: Settings) -> None:
    """It seems complete; the archive knows more."""
    await spawn_for_real(settings)
    await archived(settings)
    async with Fallback(settings) as fallback:
        await fallback.spawn()
        await fallback.spawn(await fallback.make(NARROW))
    with redis.Redis.from_url(settings.redis_url) as real:
        real.hset(f"pool:{{{POOL}}}:meta", "seq", 0)
        real.xtrim(f"pool:{{{POOL}}}:events", maxlen=0)
    printed = "".join(await do_handover(settings))
    assert f"pool {POOL!r}: it waits for the next start: rolled back" in printed
    assert (ids(settings.redis_url), len(ids(settings.redis_url, pool=NARROW))) == ([], 1)
    assert directory.not_handed_over(settings.data_dir)


async def test_a_catalogue_behind_what_was_read_is_waited_for(settings: Settings) -> None:
    """Also where the archive does not know better: it may be behind as well."""
    await prepare(settings)
    known = last_seen.LastSeen(redis_url=settings.redis_url, generation=1, seq=99)
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(known))
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    printed = "".join(await do_handover(settings))
    assert "but 1, 99 was seen: Redis has lost writes" in printed
    assert ids(settings.redis_url) == []
    assert directory.not_handed_over(settings.data_dir)


async def archived(settings: Settings) -> None:
    """Archive all that is in the real log, as a projector does."""
    options = ProjectorOptions(redis_url=settings.redis_url, database_url=settings.views_url)
    projector, views = Projector(options), Views(settings.views_url)
    await projector.start()
    await views.start()
    try:
        assert await views.wait_for(POOL, 1, timeout_seconds=10)
    finally:
        await projector.stop()
        await views.stop()


async def test_agents_not_handed_over_of_several_fallbacks_are_all_listed(
    settings: Settings,
) -> None:
    for number in (1, 2):
        async with Fallback(settings) as fallback:
            await fallback.spawn(await fallback.make(OTHER))
        await do_handover(settings)
        found = read_handover_failures(str(settings.handover_failures_file))
        assert found is not None
        assert len([one for one in found.left if one.agent_id]) == number


async def test_a_fallback_without_its_identity_is_neither_started_again_nor_skipped(
    settings: Settings,
) -> None:
    """Under another identity its agents could be asked for twice; passed over, they were lost."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
        (fallback.folder.path / "identity.json").unlink()
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        fallback.folder.open("redis://real", "again")
    with pytest.raises(ConfigurationError, match=r"identity.json cannot be read"):
        await do_handover(settings)
    assert ids(settings.redis_url) == []


async def test_a_fallback_whose_log_is_damaged_is_not_passed_over(settings: Settings) -> None:
    """An operator has to decide: its agents would be lost silently."""
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    [manifest] = fallback.folder.path.glob("redis/*/*.manifest")
    manifest.write_text("not a manifest\n")
    with pytest.raises(ConfigurationError, match=r"cannot be opened.*move the folder elsewhere"):
        await do_handover(settings)
    assert directory.not_handed_over(settings.data_dir)
