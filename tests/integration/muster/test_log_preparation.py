"""Before a role starts: whether there is a log, and which role creates it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.connection.clients import Client
from eventstore.errors import LogUnreachable, Recovered
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.log import Log
from muster.process import log_preparation
from tests.integration.muster.fallback_stage import settings_on


@pytest.fixture
async def events(redis_url: str) -> AsyncIterator[Log]:
    log = Log(Client(redis_url), Keys())
    yield log
    await log.client.aclose()


@pytest.mark.parametrize("existing", [True, False])
async def test_a_log_that_another_role_created_meanwhile_is_not_lost(
    redis_url: str, events: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    """The database is slow: its archive has what was created after Redis was asked."""
    monkeypatch.chdir(tmp_path)
    settings = settings_on(redis_url, tmp_path)

    async def answer_late(*_: Any) -> bool:
        if existing:
            await events.create_catalogue()
        return True

    monkeypatch.setattr(log_preparation, "_is_archived", answer_late)
    assert await log_preparation.prepare(settings, "gateway") == existing
    written = await events.client.execute_command("XLEN", events.keys.catalogue)
    assert written >= len(settings.pools) if existing else written == 0, "its pools, or nothing"


async def test_a_catalogue_that_lost_its_stream_is_lost_where_the_file_has_changed_too(
    redis_url: str, events: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role starts on a lost log, and reports it; with this error it would end."""
    monkeypatch.chdir(tmp_path)
    settings = settings_on(redis_url, tmp_path)
    assert await log_preparation.prepare(settings, "gateway")
    await events.client.execute_command("DEL", events.keys.catalogue)
    for name in settings.pools:
        meta = events.keys.pool(CATALOGUE, "meta")
        await events.client.execute_command("HSET", meta, f"declared:{name}", "another file")
    assert not await log_preparation.prepare(settings, "gateway")


async def test_a_recovery_while_a_role_starts_is_waited_out(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised as an error that is retried, with the address."""
    monkeypatch.chdir(tmp_path)
    settings = settings_on(redis_url, tmp_path)

    async def recovered(*_: Any) -> None:
        raise Recovered("", 2)

    monkeypatch.setattr(log_preparation, "apply_pools", recovered)
    with pytest.raises(LogUnreachable, match=f"{redis_url}.*recovered as generation 2"):
        await log_preparation.prepare(settings, "gateway")
