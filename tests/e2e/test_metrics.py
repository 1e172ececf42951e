"""Every role of a running Muster, as Prometheus reads it, and what Prometheus' own check says."""

import signal
import socket
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.e2e.system import POOL, System
from tests.metrics import Samples, complaints, read, total
from tests.process import free_port
from tests.waiting import until

CONFIG = """
[roles.developer]
agent = "workers.builtin:Placeholder"
[pools.developer_pool]
role = "developer"
renew_seconds = 0.3
"""
"""Its workers report soon."""


def two_free_ports() -> int:
    """A free port, with a free one behind it."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


async def text_of(url: str, **options: str) -> str:
    async with aiohttp.request("GET", url, headers=options or None) as response:
        assert response.status == 200, await response.text()
        return await response.text()


@pytest.mark.parametrize("mode", ["processes", "single-process"])
async def test_promtool_has_no_complaint_about_any_role_and_sums_are_right(
    tmp_path: Path, mode: str
) -> None:
    port = two_free_ports()
    flags = ["--metrics-port", str(port)] + ["--single-process"] * (mode == "single-process")
    async with System(tmp_path, *flags, config=CONFIG) as system:
        urls = [system.url, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"]
        assert all(f"{url}/metrics" in system.said() for url in urls[1:])
        for _ in range(3):
            await system.spawn()

        async def reported() -> list[str]:
            texts = [await text_of(f"{url}/metrics") for url in urls]
            known = total("muster_worker_memory_bytes_count", read(texts[1])) > 0
            return texts if known else []

        texts = await until(reported)
        assert [complaints(text) for text in texts] == ["", "", ""]
        scraped = [read(text) for text in texts]
        assert total("muster_agents", *scraped) == 3
        assert total("muster_spawns_total", *scraped) == 3
        assert total("muster_worker_processes", *scraped) == 1
        assert total("muster_projector_active", *scraped) == 1
        assert total("muster_worker_slots_used", *scraped) == 3
        named = {label for samples in scraped for series in samples.values() for labels in series
                 for label in labels}  # fmt: skip
        agents = {agent["agent_id"] for agent in await system.agents()}
        workers = {agent["process_id"] for agent in await system.agents()}
        assert not named & (agents | workers)


async def test_workers_report_to_the_successor_of_a_supervisor_that_was_killed(
    tmp_path: Path,
) -> None:
    port = two_free_ports()
    supervisor, flags = f"http://127.0.0.1:{port}/metrics", ("--metrics-port", str(port))
    async with System(tmp_path, *flags, config=CONFIG) as system:
        await system.spawn()

        async def reported() -> Samples | None:
            try:
                samples = read(await text_of(supervisor))
            except aiohttp.ClientError:
                return None
            return samples if total("muster_worker_memory_bytes_count", samples) else None

        await until(reported)
        process = system.role("supervisor")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        samples = await until(reported, timeout=20)
        assert samples is not None
        assert samples["muster_worker_processes"] == {(POOL,): 1}
        [agent] = await system.agents()
        assert agent["incarnation"] == 1


async def test_the_port_is_for_this_machine_and_for_metrics_only(tmp_path: Path) -> None:
    port = two_free_ports()
    async with System(tmp_path, "--metrics-port", str(port)) as system:
        url = f"http://127.0.0.1:{port}"
        await text_of(f"{url}/metrics")
        for path, host, status in (("/", f"localhost:{port}", 404), ("/metrics", "evil.test", 421)):
            async with aiohttp.request("GET", f"{url}{path}", headers={"Host": host}) as response:
                assert response.status == status
        found = system.role("supervisor").net_connections("tcp")
        assert [
            c.laddr.ip for c in found if (c.laddr.port, c.status) == (port, psutil.CONN_LISTEN)
        ] == ["127.0.0.1"]
