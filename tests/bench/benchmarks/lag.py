"""How far the views are behind the log while 2,000 events a second are written.

Every few milliseconds the end of the log is read, and it is noted when the views have come so far.
"""

import asyncio
import sqlite3
import time
from collections import deque
from contextlib import closing

import redis

from tests.bench.figures import Figure, Report, percentile
from tests.bench.load import Connections
from tests.bench.muster_system import MeasuredSystem, body, muster, position
from tests.bench.setup import Setup

POOL = {"min_workers": 4, "max_workers": 4, "backlog_limit": 100_000}
EVENTS_OF_A_SPAWN = 4
"""Requested, claimed, started, terminated."""
EVENTS_PER_SECOND = 2_000
TICK_SECONDS, PROBE_SECONDS = 0.02, 0.004


async def run(setup: Setup) -> Report:
    seconds = setup.scaled(10, 4)
    async with muster(setup.new_folder("muster"), {"returns": POOL}) as system:
        await system.spawned("returns", 500)
        lags, rates = [], []
        for _ in range(setup.rounds):
            lag, rate = await measure(system, seconds)
            lags.append(lag)
            rates.append(rate)
    return Report(
        name="lag",
        figures=(
            Figure(
                name="views behind the log, p99",
                unit="ms",
                ours=tuple(percentile(lag, 99) for lag in lags),
                better="less",
                target=150.0,
                aim=100.0,
            ),
            Figure(
                name="views behind the log, p50",
                unit="ms",
                ours=tuple(percentile(lag, 50) for lag in lags),
                better="less",
            ),
            Figure(name="events written", unit="/s", ours=tuple(rates)),
        ),
        notes=(f"{seconds} s a round, {EVENTS_PER_SECOND:,} events a second",),
    )


async def measure(system: MeasuredSystem, seconds: int) -> tuple[list[float], float]:
    """Milliseconds of lag, and events per second that were written."""
    with system.redis() as client, closing(system.open_views()) as views:
        probe = Probe(client, views)
        before = probe.head()
        probing = asyncio.create_task(probe.watch())
        began = time.perf_counter()
        await steady(system, seconds)
        rate = (probe.head() - before) / (time.perf_counter() - began)
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await system.all_ended("returns")
        return probe.lags_ms, rate


async def steady(system: MeasuredSystem, seconds: int) -> None:
    """Spawns at an even rate, whether or not those before have been answered."""
    each = round(EVENTS_PER_SECOND / EVENTS_OF_A_SPAWN * TICK_SECONDS)
    url = f"{system.url}/api/v1/agents/spawn"
    loop, ticks = asyncio.get_running_loop(), int(seconds / TICK_SECONDS)
    async with Connections(url, body("returns"), each) as connections:
        began = loop.time()
        for tick in range(ticks):
            await asyncio.sleep(max(0.0, began + tick * TICK_SECONDS - loop.time()))
            await connections.post(each)


class Probe:
    """Ends of the log that the views have not reached yet, with the time when they were seen."""

    def __init__(self, client: "redis.Redis", views: sqlite3.Connection) -> None:
        self._client, self._views = client, views
        self._ahead: deque[tuple[int, float]] = deque()
        self.lags_ms: list[float] = []

    def head(self) -> int:
        return int(self._client.hget("pool:{returns}:meta", "seq") or 0)

    async def watch(self) -> None:
        while True:
            if not self._ahead or self.head() > self._ahead[-1][0]:
                self._ahead.append((self.head(), time.perf_counter()))
            reached, now = position(self._views, "returns"), time.perf_counter()
            while self._ahead and self._ahead[0][0] <= reached:
                self.lags_ms.append((now - self._ahead.popleft()[1]) * 1000)
            await asyncio.sleep(PROBE_SECONDS)
