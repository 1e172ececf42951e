"""Whether there is to be a fallback: who is silent, who else is there, and what was seen of it."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError
from eventstore.keys import Keys
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.fallback import eligibility, last_seen, standby
from muster.process.roles import prepare
from muster.settings.settings import Settings
from projector.queries.views import Views
from tests.conftest import MakeServer
from tests.integration.muster.fallback_stage import NARROW, POOL, TESTERS, settings_on
from tests.pools import ORIGIN
from tests.process import free_port
from tests.waiting import until


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Settings:
    monkeypatch.chdir(tmp_path)
    return settings_on(redis_url, tmp_path)


# ---- whether there is to be a fallback -------------------------------------------------------


async def test_only_silence_leads_to_a_fallback(
    redis_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says that we may not is there; whoever says nothing is not."""
    server = redis_server()
    with server.client() as client:
        client.config_set("requirepass", "secret")
    assert await eligibility.unreachable_reason(server.url, timeout_seconds=10) == ""
    wrong = server.url.replace("redis://", "redis://:wrong@")
    assert await eligibility.unreachable_reason(wrong, timeout_seconds=10) == ""
    nobody = f"redis://127.0.0.1:{free_port()}"
    assert "Connect call failed" in await eligibility.unreachable_reason(
        nobody, timeout_seconds=0.1
    )
    assert "not known" in await eligibility.unreachable_reason(
        "redis://no.invalid", timeout_seconds=0.1
    )
    monkeypatch.setattr(eligibility, "ATTEMPT_SECONDS", 0.3)
    server.pause()
    assert "does not answer" in await eligibility.unreachable_reason(
        server.url, timeout_seconds=0.1
    )
    server.resume()


async def test_a_redis_that_restarts_quickly_is_waited_for(redis_server: MakeServer) -> None:
    server = redis_server()
    server.stop()
    asking = asyncio.create_task(eligibility.unreachable_reason(server.url, timeout_seconds=10))
    await asyncio.sleep(0)  # it asks for the first time
    await asyncio.to_thread(server.start)
    assert await asking == ""


async def test_a_host_falls_back_once_whatever_the_data_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one supervisor per host and log: two would take the same request for two."""
    monkeypatch.setattr(eligibility, "UNREACHABLE_SECONDS", 0.0)
    monkeypatch.setattr("muster.fallback.standby.FALLBACK_LOCK_TIMEOUT_SECONDS", 0.1)
    nobody = f"redis://127.0.0.1:{free_port()}"
    wanted = replace(settings, redis_url=nobody, fallback="single-process", key_prefix="k:")
    (tmp_path / "e").mkdir()
    first = await standby.start_if_needed(wanted)
    assert first is not None
    with pytest.raises(ConfigurationError, match="already has a supervisor"):
        await standby.start_if_needed(replace(wanted, data_dir=tmp_path / "e"))
    first.release()
    second = await standby.start_if_needed(wanted)
    assert second is not None
    assert second.folder.identity() == first.folder.identity()
    second.release()


def host_rows(path: Path, seq: int, status: str) -> None:
    """Views that tell of another host, as of a position of the catalogue."""
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO checkpoints (pool, generation, seq) VALUES ('', 1, ?)", [seq])
        database.execute(
            "INSERT INTO hosts (host, hostname, status) VALUES ('other', 'gauss', ?)", [status]
        )


@pytest.mark.parametrize(
    ("recorded", "viewed", "refused"),
    [
        ({}, "joined", True),
        ({}, "cordoned", True),
        ({}, "left", False),
        ({"seq": 3, "hosts": {"other": "gauss"}}, "left", False),
        ({"seq": 9, "hosts": {"other": "gauss"}}, "left", True),
        ({"seq": 9, "hosts": {}}, "joined", False),
    ],
)
async def test_the_later_of_record_and_views_tells_whether_others_are_there(
    settings: Settings, recorded: dict[str, Any], viewed: str, refused: bool
) -> None:
    views = Views(settings.views_url)
    await views.start()
    await views.stop()
    host_rows(settings.data_dir / "views.db", 5, viewed)
    known = last_seen.LastSeen(generation=1 if recorded else 0, **recorded)
    if refused:
        with pytest.raises(ConfigurationError, match=r"other hosts are registered: other \(gauss"):
            await eligibility.require_only_host(settings, known)
    else:
        await eligibility.require_only_host(settings, known)


async def test_where_nobody_can_tell_of_others_there_is_no_fallback(settings: Settings) -> None:
    """Unless this is the first start of all, on views of its own."""
    nothing = last_seen.LastSeen()
    await eligibility.require_only_host(settings, nothing)
    away = replace(settings, database_url=f"postgresql://127.0.0.1:{free_port()}/muster")
    with pytest.raises(ConfigurationError, match="cannot be known"):
        await eligibility.require_only_host(away, nothing)
    await eligibility.require_only_host(away, last_seen.LastSeen(generation=1, seq=1))


async def test_the_record_follows_the_catalogue_and_never_goes_back(settings: Settings) -> None:
    """A Redis that has lost writes does not make what was seen unseen."""
    await prepare(settings)
    observer = last_seen.Observer(settings)
    await observer.refresh()
    following = asyncio.create_task(observer.follow())
    client, reader = connect(settings.redis_url), Reader(settings.redis_url)
    try:
        catalogue = CatalogueLog(Log(client, Keys()), reader)
        await catalogue.join_host("other", "gauss", 1, ORIGIN)
        await until(lambda: "other" in last_seen.read(settings.data_dir).hosts)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await reader.close()
    seen = last_seen.read(settings.data_dir)
    assert (seen.generation, sorted(seen.pools)) == (1, [POOL, NARROW, TESTERS])
    assert seen.own_hosts == (last_seen.own_host(settings),)
    await client.flushall()
    await client.aclose()
    await prepare(settings)
    again = last_seen.Observer(settings)
    await again.refresh()
    await cancelled(again.follow())
    assert last_seen.read(settings.data_dir) == seen


async def test_a_record_that_is_damaged_is_made_anew_but_not_guessed(settings: Settings) -> None:
    """With Redis there it can be; without, nobody knows who else there is."""
    path = settings.data_dir / last_seen.NAME
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"surroundings.json cannot be read"):
        last_seen.read(settings.data_dir)
    await prepare(settings)
    observer = last_seen.Observer(settings)
    await observer.refresh()
    await cancelled(observer.follow())
    assert sorted(last_seen.read(settings.data_dir).pools) == [POOL, NARROW, TESTERS]


async def cancelled(work: Coroutine[Any, Any, None]) -> None:
    """Begin it, and end it: it closes what it has."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
