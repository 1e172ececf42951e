"""Before a role starts: whether there is a log, and whose beginning that is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.connection import connect
from eventstore.keys import Keys
from eventstore.log import Log
from muster import roles
from tests.integration.fallback_stage import settings_on


@pytest.fixture
async def events(redis_url: str) -> AsyncIterator[Log]:
    log = Log(connect(redis_url), Keys())
    yield log
    await log.client.aclose()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_log_that_another_role_began_meanwhile_is_not_lost(
    redis_url: str, events: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """The database is slow to answer: its archive has what was begun after Redis was asked."""
    monkeypatch.chdir(tmp_path)
    settings = settings_on(redis_url, tmp_path)

    async def answer_late(*_: Any) -> bool:
        if begun:
            await events.found()
        return True

    monkeypatch.setattr(roles, "_is_archived", answer_late)
    assert await roles.prepare(settings, "gateway") == begun
    written = await events.client.xlen(events.keys.catalogue)
    assert written >= len(settings.pools) if begun else written == 0, "its pools, or nothing"
