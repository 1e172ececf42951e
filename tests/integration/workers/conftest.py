"""A pool for each test that requests one: with hosts, or with workers in this process."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.forked import fork_zygotes
from tests.integration.workers.hosts import Site
from tests.integration.workers.roles import Noted
from tests.integration.workers.worker_processes import Processes, Template
from tests.worker_pool import WorkerPool, worker_pool


@pytest.fixture
def real_zygotes() -> None:
    """For what agents start themselves: forked zygotes have traces of `multiprocessing`."""


@pytest.fixture
async def site(
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Site]:
    if "real_zygotes" not in request.fixturenames:
        fork_zygotes(monkeypatch.setattr)
    site = Site(redis_url, tmp_path)
    yield site
    await site.close()


@pytest.fixture
async def pool(redis_url: str, tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with worker_pool(redis_url, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    made = Template()
    yield made
    made.close()


@pytest.fixture
def processes(
    request: pytest.FixtureRequest, pool: WorkerPool, tmp_path: Path, template: Template
) -> Iterator[Processes]:
    """Workers in processes of their own, with the test module's `AGENTS`."""
    made = Processes(pool, tmp_path / "app", request.module.AGENTS, template)
    yield made
    made.end()


@pytest.fixture
def calls() -> list[str]:
    """The calls that agents of the role `Noted` record in this test."""
    Noted.calls.clear()
    return Noted.calls


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged in this process."""
    with structlog.testing.capture_logs() as captured:
        yield captured
