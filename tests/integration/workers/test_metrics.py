"""A supervisor reports the workers of its host: as distributions, across its own restarts."""

import socket

from eventstore.language.agent_commands import Terminate
from tests.integration.workers.hosts import POOL, Site
from tests.metrics import Samples, scrape, total
from tests.pools import ORIGIN
from tests.waiting import until
from workers.process.reports import socket_address
from workers.supervisor.supervisor import Supervisor

BY_WORKERS = ("muster_worker_memory_bytes", "muster_worker_loop_lag_seconds")


async def reported(supervisor: Supervisor, name: str, count: float) -> Samples:
    """What it reports once so much was observed."""
    found: Samples = {}

    async def enough() -> bool:
        nonlocal found
        found = await scrape(supervisor.metrics)
        return total(name, found) >= count

    await until(enough)
    return found


async def test_what_workers_measure_is_added_up_by_pool(site: Site) -> None:
    pool = await site.pool(renew_seconds=0.1)
    host = await site.host(metrics=True)
    await site.run(pool, 15)
    samples = await reported(host, "muster_worker_memory_bytes_count", 4)
    assert samples["muster_worker_processes"] == {(POOL,): 2}
    for name in BY_WORKERS:
        assert list(samples[f"{name}_count"]) == [(POOL,)]
    [memory] = samples["muster_worker_memory_bytes_sum"].values()
    [count] = samples["muster_worker_memory_bytes_count"].values()
    assert 5e6 < memory / count < 5e8
    assert samples["muster_claim_seconds_count"][POOL,] >= 2
    assert samples["muster_append_seconds_count"].keys() == {("supervisor",), ("worker",)}


async def test_a_worker_reports_to_whichever_supervisor_is_there(site: Site) -> None:
    """What it measured while there was none is not lost."""
    pool = await site.pool(renew_seconds=0.1)
    claims = "muster_claim_seconds_count"
    first = await site.host(metrics=True, single_process=True)
    assert first.metrics is not None
    await site.run(pool)
    before = total(claims, await reported(first, claims, 1))
    first.metrics.stop()
    for _ in range(3):
        await pool.spawn()
    await site.until_running(4)
    assert total(claims, await scrape(first.metrics)) == before
    first.metrics.start(first._events)
    await reported(first, claims, before + 1)


async def test_what_is_no_report_is_ignored(site: Site) -> None:
    pool = await site.pool(renew_seconds=0.1)
    host = await site.host(metrics=True)
    assert host.metrics is not None
    address = socket_address(f"muster-reports-{host._lock.scope}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\xff", b"\x92\xa1x\x90", b"\x92\xa3abc\x91\x93\xa1x\x90\x00"):
            stranger.sendto(data, address)
    await site.run(pool)
    samples = await reported(host, "muster_worker_memory_bytes_count", 1)
    assert {label for s in samples.values() for labels in s for label in labels} <= {
        POOL, "supervisor", "worker",
    }  # fmt: skip


async def test_the_series_of_a_deleted_pool_go(site: Site) -> None:
    pool = await site.pool(renew_seconds=0.1, empty_worker_seconds=0.1)
    host = await site.host(metrics=True)
    [agent_id] = await site.run(pool)
    await reported(host, "muster_worker_memory_bytes_count", 1)
    await site.log.act(POOL, agent_id, Terminate(reason="pool-deleted"), ORIGIN)
    await site.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")

    async def gone() -> bool:
        samples = await scrape(host.metrics)
        return not any(POOL in labels for series in samples.values() for labels in series)

    await until(gone)


async def test_without_the_option_nothing_is_measured_and_no_worker_reports(site: Site) -> None:
    pool = await site.pool()
    host = await site.host()
    await site.run(pool)
    assert host.metrics is None
    assert host._events.on_answered is None
