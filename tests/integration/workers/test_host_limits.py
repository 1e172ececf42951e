"""A host takes a bounded number of workers, starts few at the same time, and says so."""

import asyncio
import socket

import msgspec
import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Pool
from eventstore.retention import Retention
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, data, raw_events
from tests.waiting import until
from workers.host.capacity import HostLimits
from workers.launch.pool_processes import HostProcesses
from workers.supervisor import host_reports
from workers.supervisor.launch_tracker import LaunchTracker


@pytest.mark.parametrize(
    ("limits", "workers", "reason"),
    [
        (HostLimits(workers_max=2), 2, "(host_workers_max)"),
        (HostLimits(memory_min_mb=1e9), 0, "(host_memory_min_mb)"),
        (HostLimits(load_max=1e-9), 0, "(host_load_max)"),
    ],
)
async def test_a_full_host_starts_no_more_workers_and_that_is_known(
    site: Site, limits: HostLimits, workers: int, reason: str
):
    pool = await site.pool(agents_per_worker=1)
    await site.host(limits=limits)
    await asyncio.gather(*(pool.spawn() for _ in range(4)))

    async def blocked() -> str:
        return (await site.survey()).blocked

    said = await until(blocked, what="the leader says why")
    assert said.startswith("no host has room for another worker: h1: ")
    assert said.endswith(reason)

    async def claimed() -> bool:
        survey = await site.survey()
        return (len(survey.workers), survey.waiting) == (workers, 4 - workers)

    await until(claimed, what="the workers that there are have claimed")
    assert await site.log.blocked([POOL]) == {POOL: said}
    for agent_id in await site.log.live(POOL):
        await site.log.act(POOL, agent_id, Terminate(reason="requested"), ORIGIN)

    async def cleared() -> bool:
        return not await blocked()

    await until(cleared, what="nothing waits any more")


async def test_a_burst_is_ordered_in_one_decision_and_few_start_at_the_same_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    """An order has the time of those before it, too."""
    starting: list[int] = []
    launch = HostProcesses.launch

    async def counted(self: HostProcesses, pool: Pool, worker_id: str) -> None:
        await launch(self, pool, worker_id)
        starting.append(len(self._starting))

    monkeypatch.setattr(HostProcesses, "launch", counted)
    pool = await site.pool(agents_per_worker=1, launch_seconds=20.0)
    for _ in range(7):
        await pool.spawn()
    await site.host(limits=HostLimits(launches_max=2))
    await site.until_running(7)
    assert max(starting) == 2
    events = raw_events(site.url)
    decided = [data(e) for e in events if e["type"] == "pool.scaling_decided"]
    assert [(one["current"], one["desired"]) for one in decided] == [(0, 7)]
    ordered = [(e, data(e)) for e in events if e["type"] == "worker.requested"]
    seconds = [(order["deadline_ms"] - int(e["ts"])) // 1000 for e, order in ordered]
    assert [round((s + 1) / 20) for s in seconds] == [1, 1, 2, 2, 3, 3, 4]
    site.check()


async def test_where_a_launch_failed_no_more_are_ordered_than_may_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    """Else what ends all of them would be tried with each."""
    monkeypatch.setattr(LaunchTracker, "failing", lambda self, host: True)
    pool = await site.pool(agents_per_worker=1)
    await site.host(limits=HostLimits(launches_max=2))
    await site.run(pool, 7)
    decided = [data(e) for e in raw_events(site.url) if e["type"] == "pool.scaling_decided"]
    assert all(one["desired"] - one["current"] <= 2 for one in decided)


async def test_a_host_without_a_supervisor_is_recorded_as_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    """One that was killed, and a former boot of a host of this name."""
    monkeypatch.setattr(host_reports, "GONE_MS", 100)
    await site.pool()
    for name in ("killed", "former-boot", "older-version"):
        hostname = "elsewhere" if name == "older-version" else socket.gethostname()
        await site.catalogue.join_host(name, hostname, 1, ORIGIN)
    report = host_reports.HostReport(at_ms=1, room=5)
    line = msgspec.json.encode(report)
    await site.log.client.execute_command("HSET", "{muster:catalogue}:hosts", "killed", line)
    await site.host()

    async def statuses() -> dict[str, str]:
        return {h.host: h.status for h in (await site.catalogue.refresh()).hosts.values()}

    async def settled() -> bool:
        return list((await statuses()).values()).count("left") == 2

    await until(settled, what="both have left")
    expected = {"killed": "left", "former-boot": "left", "older-version": "joined", "h1": "joined"}
    assert await statuses() == expected


async def test_a_host_that_left_long_ago_is_removed_and_may_join_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host_reports, "SWEEP_SECONDS", 1)
    await site.pool()
    await site.catalogue.join_host("old", "elsewhere", 1, ORIGIN)
    await site.catalogue.leave_host("old", "host-shutdown", ORIGIN)
    await site.host(retention=Retention(age_ms=1))

    async def removed() -> bool:
        return "old" not in (await site.catalogue.refresh()).hosts

    await until(removed, what="the host is removed")
    meta = await site.log.client.execute_command("HGET", "{muster:catalogue}:meta", "version:old")
    assert meta is None
    await site.catalogue.join_host("old", "elsewhere", 2, ORIGIN)
    assert site.catalogue.state.hosts["old"].version == 1
