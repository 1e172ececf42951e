"""Each role with the access list that docs/operations.md gives it, on a shared Redis."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.conftest import MakeServer
from tests.e2e.system import MUSTER, System
from tests.process import free_port
from tests.servers import RedisLikeServer, RedisServer, ValkeyServer
from tests.unit.source.pages import OPERATIONS, section
from tests.waiting import until

ROLES = ("projector", "supervisor", "gateway")
LISTED = re.compile(r"^ACL SETUSER (\w+) on >SECRET ((?:.+\n)(?:  .+\n)*)", re.MULTILINE)


@asynccontextmanager
async def roles(
    folder: Path, server: RedisLikeServer, port: int, metrics: dict[str, int]
) -> AsyncIterator[None]:
    """The three roles as processes of their own, each with its login and port for metrics."""
    started: list[subprocess.Popen[bytes]] = []
    for role in ROLES:
        login = f"redis://{role}:secret@127.0.0.1:{server.port}/0"
        environment = {
            **System(folder).env,
            "MUSTER_REDIS_URL": login,
            "MUSTER_KEY_PREFIX": "x:",
            "MUSTER_PORT": str(port),
            "MUSTER_DATABASE_URL": f"sqlite:///{folder}/views.db",
            "MUSTER_RETENTION_EVENTS": "1",
            "MUSTER_RETENTION_AGE_SECONDS": "1",
            "MUSTER_METRICS_PORT": str(metrics[role]),
        }
        with (folder / f"{role}.out").open("wb") as out:
            command = [*MUSTER, role, "--data-dir", str(folder / "data")]
            started.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
            )
    try:
        yield
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            await asyncio.to_thread(process.wait, 30)


async def test_the_documented_lists_are_enough_and_forbid_other_keys(
    tmp_path: Path, redis_server: MakeServer
) -> None:
    """Of a Valkey and of the oldest Redis, side by side."""
    async with asyncio.TaskGroup() as group:
        for kind in (ValkeyServer, RedisServer):
            (tmp_path / kind.kind).mkdir()
            group.create_task(_live(tmp_path / kind.kind, redis_server(kind)))


async def _live(folder: Path, server: RedisLikeServer) -> None:
    """Let each role do all that it does with its list; none is denied, nor uses another key."""
    port, metrics = free_port(), {role: free_port() for role in ROLES}
    lists = LISTED.findall(section(OPERATIONS, "### Access control in Redis"))
    assert {role for role, _ in lists} == set(ROLES)
    with server.client() as client:
        for role, rules in lists:
            client.execute_command("ACL", "SETUSER", role, "on", ">secret", *rules.split())
        async with roles(folder, server, port, metrics):
            await _a_day(f"http://127.0.0.1:{port}")
            url = f"http://127.0.0.1:{metrics['projector']}/metrics"
            async with aiohttp.request("GET", url) as response:
                assert "muster_stream_entries{" in await response.text()
            stream = "x:pool:{developer_pool}:events"
            await until(lambda: client.xinfo_stream(stream)["first-entry"][1][b"seq"] != b"1",
                        timeout=20)  # fmt: skip  # trimmed
        denied = {entry["object"] for entry in client.acl_log()} - {"client|setinfo"}
        assert denied == set()
        assert all(key.startswith(b"x:") for key in client.scan_iter())


async def _a_day(url: str) -> None:
    """Spawn, read, restart, terminate, pools and drains: what clients do."""
    body = {"project_id": "demo", "role_type": "developer", "pool_name": "developer_pool"}
    agents = f"{url}/api/v1/agents"
    async with aiohttp.ClientSession() as session:

        async def ready() -> bool:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        async def call(method: str, path: str, **options: object) -> object:
            async with session.request(method, f"{agents}{path}", **options) as answer:  # type: ignore[arg-type]
                text = await answer.text()
                assert answer.status < 300, text
                return json.loads(text) if text else None

        await until(ready, timeout=60)
        waits = {"Prefer": "wait=20", "Idempotency-Key": "one"}
        first = await call("POST", "/spawn", json=body, headers=waits)
        second = await call("POST", "/spawn", json=body, headers={"Prefer": "wait=20"})
        for one in (first, second):
            assert one["agent_id"]  # type: ignore[index]
        await call("POST", "/pools", json={"role_type": "tester", "pool_name": "zz"})
        await call("PATCH", "/pools/zz", json={"config": {"max_workers": 2}})
        await call("PATCH", "/pools/zz", json={"config": {"placement": "spread"}})
        placed = {"project_id": "demo", "role_type": "tester", "pool_name": "zz"}
        await call("POST", "/spawn", json=placed, headers=waits)
        await call("PATCH", "/pools/zz", json={"config": {"placement": "pull"}})
        await call("DELETE", "/pools/zz?force=true")
        for path in ("", "/pools", "/monitor/system", "/monitor/alerts", "/health"):
            await call("GET", path)
        ended = {"pool_name": "developer_pool", "agent_id": first["agent_id"]}  # type: ignore[index]
        await call("POST", "/terminate", json=ended, headers={"Prefer": "wait=20"})
