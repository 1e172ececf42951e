"""The gateway that most tests of this folder ask."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
import uvloop
from msgspec.structs import replace

from tests.integration.gateway.stage import QUICK, GatewayStage, gateway_stage


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway with its views in an SQLite file."""
    async with gateway_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        yield stage


@pytest.fixture
async def hasty(
    no_leases: None, monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path
) -> AsyncIterator[GatewayStage]:
    """A gateway that notices soon that a log is lost, and hardly waits for the views."""
    monkeypatch.setattr("gateway.backend.acknowledgements.CHECK_INTERVAL_SECONDS", 0.1)
    limits = replace(QUICK, catch_up_seconds=0.2)
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, limits=limits) as stage:
        yield stage


@pytest.fixture
async def unprojected(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway whose views get nothing, unless the test runs a projector itself."""
    limits = replace(QUICK, catch_up_seconds=0.5)
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        yield stage


@pytest.fixture
def frequent_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways notice soon how their Redis is; it has as long to answer as ever."""
    for interval in ("PROBE_INTERVAL_SECONDS", "REST_PROBE_INTERVAL_SECONDS"):
        monkeypatch.setattr(f"gateway.backend.redis_health.{interval}", 0.1)


@pytest.fixture
def plain_redis(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the tests' Redis, to read and damage what is in it."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A gateway has the loop that its process has."""
    return {"uvloop": uvloop.new_event_loop}
