"""A handover that is interrupted, or to a log that lost writes, loses and repeats nothing."""

import msgspec
import pytest
import redis
from msgspec.structs import replace

from eventstore.errors import ConfigurationError, LogError
from gateway.fallback import read_handover_failures
from muster.fallback import directory, last_seen
from muster.fallback.inventory import Entry
from muster.fallback.primary_log import PrimaryLog
from muster.process.log_preparation import prepare
from muster.settings.settings import Settings
from projector.recovery.recovery import RecoveryOptions, recover
from tests.conftest import MakeServer
from tests.integration.muster.fallback_stage import (
    NARROW,
    POOL,
    Fallback,
    archived,
    do_handover,
    ids,
    spawn_for_real,
)


async def test_a_redis_lost_midway_gets_the_rest_at_a_later_start(
    settings: Settings, redis_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fallback starts empty; then both are handed over, and no agent exists twice."""
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


async def test_a_redis_at_its_memory_limit_gets_the_agents_at_the_next_start(
    settings: Settings, redis_server: MakeServer
) -> None:
    """The start does not wait for them, and an alert names them."""
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


async def test_an_emptied_redis_is_not_used_as_the_real_one(
    settings: Settings,
) -> None:
    """Nothing is written there, so that it can be recovered; the fallback is retained."""
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


async def test_a_real_log_that_lost_writes_is_recovered_first(
    settings: Settings, no_leases: None, no_reports: None
) -> None:
    """Agents handed over before that would be lost again."""
    before = await spawn_for_real(settings)
    await archived(settings, POOL, 1)
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
    """It seems complete, but the archive has more."""
    await spawn_for_real(settings)
    await archived(settings, POOL, 1)
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


async def test_a_catalogue_behind_its_last_seen_position_gets_no_agents(settings: Settings) -> None:
    """Also where the archive is behind as well."""
    await prepare(settings)
    known = last_seen.LastSeen(redis_url=settings.redis_url, generation=1, seq=99)
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(known))
    async with Fallback(settings) as fallback:
        await fallback.spawn()
    printed = "".join(await do_handover(settings))
    assert "but 1, 99 was seen: Redis has lost writes" in printed
    assert ids(settings.redis_url) == []
    assert directory.not_handed_over(settings.data_dir)
