"""Whether a fallback may start: is Redis silent, are there other hosts, what was last seen."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.connection.clients import Client
from eventstore.errors import ConfigurationError
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.fallback import last_seen, standby
from muster.process.log_preparation import prepare
from muster.settings.settings import PoolDeclaration, Settings
from projector.queries.views import Views
from tests.conftest import MakeServer
from tests.integration.muster.fallback_stage import NARROW, POOL, TESTERS, archived
from tests.pools import ORIGIN
from tests.process import free_port
from tests.waiting import until

# ---- whether there is to be a fallback -------------------------------------------------------


async def test_only_silence_leads_to_a_fallback(
    redis_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses us is there; one that does not answer is not."""
    server = redis_server()
    with server.client() as client:
        client.config_set("requirepass", "secret")
    assert await standby.unreachable_reason(server.url, timeout_seconds=10) == ""
    wrong = server.url.replace("redis://", "redis://:wrong@")
    assert await standby.unreachable_reason(wrong, timeout_seconds=10) == ""
    unreachable = f"redis://127.0.0.1:{free_port()}"
    assert "connection refused" in await standby.unreachable_reason(
        unreachable, timeout_seconds=0.1
    )
    assert "not known" in await standby.unreachable_reason(
        "redis://no.invalid", timeout_seconds=0.1
    )
    monkeypatch.setattr(standby, "ATTEMPT_SECONDS", 0.3)
    server.pause()
    assert "does not answer" in await standby.unreachable_reason(server.url, timeout_seconds=0.1)
    server.resume()


async def test_a_redis_that_restarts_quickly_is_waited_for(redis_server: MakeServer) -> None:
    server = redis_server()
    server.stop()
    asking = asyncio.create_task(standby.unreachable_reason(server.url, timeout_seconds=10))
    await asyncio.sleep(0)  # it asks for the first time
    await asyncio.to_thread(server.start)
    assert await asking == ""


async def test_a_host_falls_back_once_whatever_the_data_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one supervisor per host and log: two would take the same request for two."""
    monkeypatch.setattr(standby, "UNREACHABLE_SECONDS", 0.0)
    monkeypatch.setattr("muster.fallback.standby.FALLBACK_LOCK_TIMEOUT_SECONDS", 0.1)
    unreachable = f"redis://127.0.0.1:{free_port()}"
    wanted = replace(settings, redis_url=unreachable, fallback="single-process", key_prefix="k:")
    (tmp_path / "e").mkdir()
    first = await standby.start_if_needed(wanted)
    assert first is not None
    with pytest.raises(ConfigurationError, match="already has a supervisor"):
        await standby.start_if_needed(replace(wanted, data_dir=tmp_path / "e"))
    first.lock.release()
    second = await standby.start_if_needed(wanted)
    assert second is not None
    assert second.folder.identity() == first.folder.identity()
    second.lock.release()


def host_rows(path: Path, seq: int, status: str) -> None:
    """Views that know another host, as of a position of the catalogue."""
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO checkpoints (pool, generation, seq) VALUES ('', 1, ?)", [seq])
        database.execute(
            "INSERT INTO hosts (host, hostname, status) VALUES ('other', 'gauss', ?)", [status]
        )


@pytest.mark.parametrize(
    ("seen_seq", "status", "refusal"),
    [
        (0, "joined", r"other hosts are registered: other \(gauss"),
        (5, "cordoned", r"other hosts are registered: other \(gauss"),
        (5, "left", ""),
        (6, "left", "are behind what .* last saw"),
    ],
)
async def test_the_views_decide_whether_others_are_there_unless_they_are_behind(
    settings: Settings, seen_seq: int, status: str, refusal: str
) -> None:
    views = Views(settings.views_url)
    await views.start()
    await views.stop()
    host_rows(settings.data_dir / "views.db", 5, status)
    known = last_seen.LastSeen(generation=1 if seen_seq else 0, seq=seen_seq)
    if refusal:
        with pytest.raises(ConfigurationError, match=refusal):
            await standby.require_only_host(settings, known)
    else:
        await standby.require_only_host(settings, known)


async def test_a_service_with_tokens_does_not_fall_back_to_one_that_knows_none(
    settings: Settings,
) -> None:
    """Else anyone on this machine could do everything while Redis is away."""
    views = Views(settings.views_url)
    await views.start()
    await views.stop()
    with sqlite3.connect(settings.data_dir / "views.db") as database:
        database.execute(
            "INSERT INTO tokens (name, scopes, secrets) VALUES ('ci', '[\"read\"]', '[]')"
        )
    with pytest.raises(ConfigurationError, match="set MUSTER_API_TOKEN to allow one"):
        await standby.require_only_host(settings, last_seen.LastSeen())
    await standby.require_only_host(replace(settings, api_token="t"), last_seen.LastSeen())


async def test_a_host_that_is_not_alone_does_not_fall_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views know the other host: it may reach the Redis that we do not, and serve that log."""
    monkeypatch.setattr(standby, "UNREACHABLE_SECONDS", 0.0)
    await prepare(settings)
    client, reader = Client(settings.redis_url), Reader(settings.redis_url)
    catalogue = CatalogueLog(Log(client, Keys()), reader)
    await catalogue.join_host("elsewhere", "gauss", 1, ORIGIN)
    await archived(settings, CATALOGUE, catalogue.state.seq)
    await reader.close()
    await client.aclose()
    unreachable = replace(
        settings, redis_url=f"redis://127.0.0.1:{free_port()}", fallback="single-process"
    )
    with pytest.raises(
        ConfigurationError, match=r"other hosts are registered: elsewhere \(gauss\)"
    ):
        await standby.start_if_needed(unreachable)
    assert not (settings.data_dir / "fallback").exists()


async def test_where_the_database_is_unreachable_too_there_is_no_fallback(
    settings: Settings,
) -> None:
    """Whatever this folder saw before. The first start of all, on views of its own, may."""
    nothing = last_seen.LastSeen()
    cluster = await standby.require_only_host(settings, nothing)
    assert cluster.pools == settings.pools
    unreachable = replace(settings, database_url=f"postgresql://127.0.0.1:{free_port()}/muster")
    for known in (nothing, last_seen.LastSeen(generation=1, seq=1)):
        with pytest.raises(ConfigurationError, match=r"neither Redis .* nor the database"):
            await standby.require_only_host(unreachable, known)


async def test_the_pools_are_those_of_the_views_and_such_as_the_log_never_had(
    settings: Settings,
) -> None:
    """What was changed or deleted live stays so, and only new ones come from the file."""
    declared = dict(settings.pools)
    await prepare(settings)
    client, reader = Client(settings.redis_url), Reader(settings.redis_url)
    catalogue = CatalogueLog(Log(client, Keys()), reader)
    await catalogue.refresh()
    await catalogue.change_pool(POOL, lambda old: replace(old, max_workers=7), ORIGIN)
    await catalogue.create_pool("made_live", "developer", PoolConfig(), ORIGIN)
    await catalogue.delete_pool(catalogue.state.pools[TESTERS], ORIGIN, reason="requested")
    await archived(settings, CATALOGUE, catalogue.state.seq)
    await reader.close()
    await client.aclose()
    new = PoolDeclaration("developer", {"max_workers": 3})
    settings = replace(settings, pools={**declared, "added": new})
    pools = (await standby.require_only_host(settings, last_seen.LastSeen())).pools
    assert sorted(pools) == sorted([POOL, NARROW, "made_live", "added"])
    assert pools[POOL].config().max_workers == 7
    assert pools["added"] == new


async def test_the_record_follows_the_catalogue_and_never_goes_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when Redis has lost writes."""
    monkeypatch.setattr(last_seen, "REFRESH_SECONDS", 0.01)
    await prepare(settings)
    recorder = last_seen.Recorder(settings)
    await recorder.refresh()
    before = last_seen.read(settings)
    following = asyncio.create_task(recorder.follow())
    client, reader = Client(settings.redis_url), Reader(settings.redis_url)
    try:
        catalogue = CatalogueLog(Log(client, Keys()), reader)
        await catalogue.join_host("other", "gauss", 1, ORIGIN)
        await until(lambda: last_seen.read(settings).position > before.position)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await reader.close()
    found = last_seen.read(settings)
    assert found.position == (1, before.seq + 1)
    assert found.own_hosts == (last_seen.own_host(settings),)
    await client.execute_command("FLUSHALL")
    await client.aclose()
    await prepare(settings)
    again = last_seen.Recorder(settings)
    await again.refresh()
    await cancelled(again.follow())
    assert last_seen.read(settings) == found


async def test_a_record_of_another_redis_says_nothing_of_this_one(settings: Settings) -> None:
    """But for the names that this host had."""
    elsewhere = last_seen.LastSeen(
        redis_url="redis://elsewhere", generation=3, seq=9, own_hosts=("earlier",)
    )
    (settings.data_dir / last_seen.NAME).write_bytes(msgspec.json.encode(elsewhere))
    found = last_seen.read(settings)
    assert (found.position, found.own_hosts) == ((0, 0), ("earlier",))


async def test_a_record_that_is_damaged_is_rebuilt_but_not_guessed(settings: Settings) -> None:
    """With Redis there it can be; without, how far its log was is not known."""
    path = settings.data_dir / last_seen.NAME
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"surroundings.json cannot be read"):
        last_seen.read(settings)
    await prepare(settings)
    recorder = last_seen.Recorder(settings)
    await recorder.refresh()
    await cancelled(recorder.follow())
    assert last_seen.read(settings).generation == 1


async def cancelled(work: Coroutine[Any, Any, None]) -> None:
    """Start it, and end it: it closes its connections."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
