"""The processor time of a gateway with open dashboards, at two hundred events a second.

One open dashboard is compared with two hundred, in turns in each round, while agents are asked for
at a steady rate through the same gateway. Each dashboard reads all that it is sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from msgspec import Struct

from tests.bench.figures import Figure, Report
from tests.bench.muster_system import MeasuredSystem, body, muster
from tests.bench.processes import CpuUsed
from tests.bench.setup import Setup

MANY = 200
EVENTS_A_SECOND, EVENTS_OF_AN_AGENT = 200, 4
TICK_SECONDS = 0.1
STAYING = 100
POOLS: Mapping[str, Mapping[str, object]] = {
    "stays": {"min_workers": 10, "max_workers": 10, "max_idle_time": '"never"'},
    "returns": {"min_workers": 2, "max_workers": 2},
}
SETTLE_SECONDS = 2.0
REQUEST = "GET /api/v1/agents/monitor/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Used(Struct, frozen=True):
    """The gateway's CPU time in percent of a core, and what each dashboard was sent in kB/s."""

    percent: float
    kilobytes: float
    events: float
    """That were written in a second."""


async def run(setup: Setup) -> Report:
    seconds = setup.scaled(10, 5)
    async with muster(setup.new_folder("muster"), POOLS) as system, steady(system):
        await system.fill("stays", STAYING)
        one, many = [], []
        for _ in range(setup.rounds):
            one.append(await used(system, 1, seconds))
            many.append(await used(system, MANY, seconds))
    return Report(
        name="dashboards",
        figures=(
            Figure(
                name=f"CPU of a gateway with {MANY} open dashboards",
                unit="% of a core",
                ours=tuple(it.percent for it in many),
                compared_with="one open dashboard",
                baseline=tuple(it.percent for it in one),
                better="less",
                target=1.5,
            ),
            Figure(
                name="sent to each of them",
                unit="kB/s",
                ours=tuple(it.kilobytes for it in many),
                better="less",
            ),
            Figure(name="events meanwhile", unit="/s", ours=tuple(it.events for it in many)),
        ),
        notes=(
            f"{setup.rounds} times {seconds} s each, {EVENTS_A_SECOND} events a second",
            f"{STAYING} agents stay",
        ),
    )


async def used(system: MeasuredSystem, dashboards: int, seconds: float) -> Used:
    """What the gateway uses while so many dashboards are open, once they have their picture."""
    received: list[int] = []
    async with asyncio.TaskGroup() as readers:
        tasks = [readers.create_task(read(system.url, received)) for _ in range(dashboards)]
        await asyncio.sleep(SETTLE_SECONDS)
        cpu, before, written = CpuUsed(system.processes), sum(received), events(system)
        cpu.start()
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        found = cpu.stop(1)["gateway"] / took / 1e4
        sent = (sum(received) - before) / dashboards / took / 1e3
        rate = (events(system) - written) / took
        for task in tasks:
            task.cancel()
    return Used(found, sent, rate)


def events(system: MeasuredSystem) -> int:
    """How many the pools' logs have had."""
    with system.redis() as client:
        return sum(int(client.hget(f"pool:{{{pool}}}:meta", "seq") or 0) for pool in POOLS)


async def read(url: str, received: list[int]) -> None:
    """An open dashboard. Notes the length of each piece that comes."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(REQUEST.encode())
        while piece := await reader.read(65536):
            received.append(len(piece))
    finally:
        writer.close()
    raise AssertionError("the stream ended")


@asynccontextmanager
async def steady(system: MeasuredSystem) -> AsyncIterator[None]:
    """Ask for agents that end at once, at a rate that makes so many events."""
    task = asyncio.create_task(_spawn(system))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _spawn(system: MeasuredSystem) -> None:
    count = round(EVENTS_A_SECOND / EVENTS_OF_AN_AGENT * TICK_SECONDS)
    path, headers = "/api/v1/agents/spawn", {"Prefer": "respond-async"}
    due = time.perf_counter()
    while True:
        for _ in range(count):
            await system.call("POST", path, body("returns"), headers=headers)
        due = max(due + TICK_SECONDS, time.perf_counter() - 1)
        await asyncio.sleep(max(due - time.perf_counter(), 0))
