"""A pool and a host of one name: each is changed as if the other were not there."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog, ChangeResult
from eventstore.log.replies import Outcome
from projector.verify.verification import verify
from tests.chaos.judge import judge
from tests.integration.projector.recovering import recovered
from tests.integration.projector.stage import Stage, open_stage
from tests.pools import ORIGIN

pytestmark = pytest.mark.usefixtures("no_leases", "no_reports")

NAME = "worker"
"""Of both."""
Change = Callable[[CatalogueLog], Awaitable[ChangeResult]]


def create(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.create_pool(
        NAME, "developer", PoolConfig(lease_seconds=1.0, renew_seconds=0.3), ORIGIN
    )


def widen(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.change_pool(
        NAME, lambda known: replace(known, max_workers=known.max_workers + 1), ORIGIN
    )


def delete(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.delete_pool(catalogue.state.pools[NAME], ORIGIN, reason="requested")


def join(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.join_host(NAME, "box", 1, ORIGIN)


def cordon(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.cordon_host(NAME, "host-shutdown", ORIGIN)


def leave(catalogue: CatalogueLog) -> Awaitable[ChangeResult]:
    return catalogue.leave_host(NAME, "host-shutdown", ORIGIN)


async def change(stage: Stage, *changes: Change) -> None:
    for one in changes:
        assert (await one(stage.catalogue)).outcome is Outcome.DONE, one.__name__


async def require_equal(stage: Stage) -> None:
    await stage.catch_up()
    assert (await verify(stage.redis_url, "", stage.database_url)).differences == []
    assert judge(stage.redis_url, views=stage.database_url) == []


@pytest.mark.parametrize(
    "changes",
    [
        (create, join, join, widen, cordon, widen, leave, delete, join, create, widen),
        (join, create, widen, widen, cordon, leave, delete, create, join, leave, widen),
    ],
    ids=["pool-first", "host-first"],
)
async def test_both_are_changed_in_turn(
    redis_url: str, tmp_path: Path, changes: tuple[Change, ...]
) -> None:
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        await change(stage, *changes)
        with redis.Redis.from_url(redis_url) as client:
            meta = client.hgetall("{muster:catalogue}:meta")
        assert meta[f"version:{NAME}".encode()] == str(len(changes)).encode()
        await require_equal(stage)


@pytest.mark.parametrize("changes", [(join, create, widen), (create, widen, join)])
async def test_both_are_changed_in_a_recovered_catalogue(
    redis_url: str, tmp_path: Path, changes: tuple[Change, ...]
) -> None:
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        await change(stage, *changes)
        await stage.catch_up()
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        await recovered(stage)
        await stage.catalogue.refresh()
        await change(stage, widen, join, delete, leave)
        await require_equal(stage)
