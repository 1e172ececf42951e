"""Pools without workers: nothing is done for one of them until something changes there."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from eventstore.log.reader import Entry, Reader
from tests.integration.workers.hosts import POOL, Site, abandon
from tests.pools import ORIGIN
from tests.waiting import until
from workers.supervisor.pool_supervisor import PoolSupervisor
from workers.supervisor.resting_pools import DELETED_SECONDS, RestingPools
from workers.supervisor.supervisor import Supervisor


async def settled(site: Site, monkeypatch: pytest.MonkeyPatch, **options: float) -> Supervisor:
    """A host with some idle pools, none of which it has to wake once more as it follows it."""
    followed: set[str] = set()
    read = Reader.read

    async def noted(reader: Reader, positions: Mapping[str, str]) -> dict[str, list[Entry]]:
        followed.update(positions)
        return await read(reader, positions)

    monkeypatch.setattr(Reader, "read", noted)
    await site.pool()
    for name in ("a", "b", "c"):
        await site.catalogue.create_pool(name, "developer", (await site.pool()).pool.config, ORIGIN)
    host = await site.host(**options)  # type: ignore[arg-type]
    await until(lambda: len(host._pools) == 4 and all(p.idle for p in host._pools.values()))
    await until(lambda: followed >= {host._keys.pool(name, "signals") for name in host._pools})
    await until(lambda: not any(pool.wakeup.is_set() for pool in host._pools.values()))
    return host


def counted(host: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()

    def count(name: str, pool: PoolSupervisor) -> None:
        reconcile = pool.reconcile

        async def noted() -> float:
            counts[name] += 1
            return await reconcile()

        monkeypatch.setattr(pool, "reconcile", noted)

    for name, pool in host._pools.items():
        count(name, pool)
    return counts


async def test_a_spawn_wakes_only_its_pool(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so do its worker's start and end, and a change of its settings."""
    host = await settled(site, monkeypatch, poll_seconds=60.0)
    counts = counted(host, monkeypatch)
    pool = await site.pool()
    await site.run(pool)
    await site.catalogue.create_pool("d", "developer", pool.pool.config, ORIGIN)
    await until(lambda: "d" in host._pools and host._pools["d"].idle)
    assert counts.keys() == {POOL}


async def test_a_change_without_a_signal_is_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await settled(site, monkeypatch, poll_seconds=60.0)
    net = RestingPools(host._events, host._pools, 60.0)
    await net.check()  # each is woken once: what happened before was not observed
    await until(lambda: not any(pool.wakeup.is_set() for pool in host._pools.values()))
    await until(lambda: all(pool.idle for pool in host._pools.values()))
    counts = counted(host, monkeypatch)
    await net.check()
    assert not any(pool.wakeup.is_set() for pool in host._pools.values())
    await host._client.execute_command("HSET", host._keys.pool("b", "meta"), "closed", "7")
    await net.check()
    await until(lambda: counts == {"b": 1})


async def test_a_log_that_is_gone_is_noticed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await settled(site, monkeypatch, poll_seconds=0.05)
    await until(lambda: len(host._resting_pools._heads) == 4)
    with structlog.testing.capture_logs() as logs:
        await host._client.execute_command("DEL", host._keys.pool("b", "meta"))
        await until(lambda: any(one["event"] == "log.error" for one in logs))
    assert {one.get("during") for one in logs} == {"pool b"}


async def test_deleted_pools_take_turns(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is not bounded; a live one is asked for in each round."""
    monkeypatch.setattr("workers.supervisor.resting_pools.BATCH", 2)
    await site.pool()
    pools: dict[str, Any] = {
        name: SimpleNamespace(
            idle=True,
            resting=False,
            deleted=name != POOL,
            wakeup=asyncio.Event(),
            leader_is_gone=lambda: True,
        )
        for name in (POOL, "a", "b", "c", "d")
    }
    net, woken = RestingPools(site.log, pools, DELETED_SECONDS / 2), []
    for _ in range(4):
        await net.check()
        woken.append({name for name, pool in pools.items() if pool.wakeup.is_set()})
        for pool in pools.values():
            pool.wakeup.clear()
    assert woken == [{POOL, "b", "d"}, {POOL, "a", "c"}] * 2


async def test_the_idle_pools_of_a_dead_host_are_led_by_another(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reports have stopped; the first spawn need not wait for a lease then."""
    for module in ("host_reports", "leader"):
        monkeypatch.setattr(f"workers.supervisor.{module}.REPORT_SECONDS", 0.05)
    pool = await site.pool(lease_seconds=1.0)
    dead = await site.host("h1", poll_seconds=0.05)
    await until(lambda: dead._pools[POOL].idle)
    heir = await site.host("h2", poll_seconds=0.05)
    await until(lambda: heir._pools[POOL].idle)
    await abandon(dead)
    await until(lambda: heir._pools[POOL]._leader.leads)
    await site.run(pool)


async def test_signals_that_come_soon_after_others_are_followed_together(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first acts at once. Each spawn that finds no free slot signals."""
    pool = await site.pool(max_workers=1, agents_per_worker=1)
    host = await site.host(poll_seconds=60.0)
    await site.run(pool)
    counts = counted(host, monkeypatch)
    for _ in range(40):
        await pool.spawn()
    await until(lambda: counts[POOL] > 0)
    assert counts[POOL] < 10
