"""Settings, terminal output, and the embedded server, for tests of `muster`."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from muster.process import restarts
from muster.settings.settings import Settings
from muster.up import log_server
from tests.integration.muster.embedding import Embedding
from tests.integration.muster.fallback_stage import settings_on
from tests.integration.muster.terminal import Terminal


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Settings:
    """Of a data folder whose Redis answers."""
    monkeypatch.chdir(tmp_path)
    return settings_on(redis_url, tmp_path)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the restarts of a process."""
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (0.05, 0.05))
    monkeypatch.setattr(restarts, "FIRST_REPORT_SECONDS", 0.2)


@pytest.fixture
async def embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_pauses: None
) -> AsyncIterator[Callable[..., Embedding]]:
    """Makes embedded servers in one folder, one after the other."""
    made: list[Embedding] = []

    def make(**options: Any) -> Embedding:
        made.append(Embedding(tmp_path, **options))
        monkeypatch.setattr(log_server, "EmbeddedServer", lambda *_, **__: made[-1].server)
        return made[-1]

    yield make
    for one in made:
        one.background.stopping.set()
        await one.background.stop()
        one.server.stop()


@pytest.fixture
async def embedded(embedding: Callable[..., Embedding]) -> Embedding:
    """An embedded server that runs."""
    made = embedding()
    await made.start()
    return made
