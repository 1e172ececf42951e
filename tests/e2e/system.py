"""A complete Muster, as a user runs it: `muster up` in a folder of its own, spoken to over HTTP."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil

from projector.verify.verification import verify
from tests.waiting import until

MUSTER = (sys.executable, "-P", "-m", "muster")
READY_SECONDS = 30.0
SETTLE_SECONDS = 10.0
"""For what is late where a process is held up; the gateway itself waits for less."""
POOL = "developer_pool"


class System:
    """One `muster up`. Ends what it started, by process id, whatever happened."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        config: str = "",
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.arguments = list(arguments)
        self.env = {**_outside(), "MUSTER_PORT": "0", **(env or {})}
        if config:
            (folder / "muster.toml").write_text(config)
            self.arguments += ["--config", str(folder / "muster.toml")]
        self.output = folder / "up.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.redis_url = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:  # it may come later, and would run for ever
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        await self.stop()

    async def start(self) -> None:
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [*MUSTER, "up", "--data-dir", str(self.data), *self.arguments],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        await until(self._ready, timeout=READY_SECONDS)
        running = self._told()
        self.url, self.redis_url = running["url"], running["redis_url"]
        if self._session is None:
            self._session = aiohttp.ClientSession()

    def _ready(self) -> bool:
        """Whether this process has said so; what a killed one left behind does not count."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return self._told().get("pid") == self.process.pid

    def _told(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.data / "running.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def said(self) -> str:
        return self.output.read_text()

    async def stop(self, *, number: signal.Signals = signal.SIGTERM, timeout: float = 40) -> int:
        """End it with a signal; whatever outlives it is killed and named."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        family = self.family(process.pid)
        if process.poll() is None:
            process.send_signal(number)
        try:
            code = await asyncio.to_thread(process.wait, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        _, left = await asyncio.to_thread(psutil.wait_procs, family, 25.0)
        for survivor in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        assert not left, f"outlived muster up: {left}"
        return code

    def family(self, pid: int | None = None) -> list[psutil.Process]:
        """All processes below `muster up`."""
        pid = pid or (self.process.pid if self.process else 0)
        try:
            return psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def role(self, name: str) -> psutil.Process:
        """The process of a role."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = process.cmdline()  # empty of one that is just ending
                if command[-1:] == [name] and "muster" in command:
                    return process
        raise AssertionError(f"no {name} runs")

    def server(self) -> psutil.Process:
        """The process of the embedded server."""
        return only(p for p in self.family() if name_of(p).startswith(("valkey", "redis")))

    def views(self) -> str:
        return str(self.data / "views.db")

    # ---- HTTP --------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        return (await self.answer(method, path, body, headers=headers))[:2]

    async def answer(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, decoded body and headers."""
        assert self._session is not None
        async with self._session.request(
            method, f"{self.url}{path}", json=body, headers=headers
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, response.headers

    async def get(self, path: str) -> Any:
        """What is read. Where the views are behind what was answered, they get more time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            status, body, headers = await self.answer("GET", path)
            assert status == 200, body
            if headers.get("Muster-Stale") != "true" or time.monotonic() > deadline:
                return body
            await asyncio.sleep(0.02)

    async def spawn(
        self, pool: str = POOL, role: str = "developer", *, wait: float = 10, **more: Any
    ) -> Any:
        """Ask for an agent and wait until it runs."""
        status, body = await self.call(
            "POST",
            "/api/v1/agents/spawn",
            {"project_id": "demo", "role_type": role, "pool_name": pool, **more},
            headers={"Prefer": f"wait={wait:g}"},
        )
        assert status in (200, 202), body
        return body

    async def agent(self, agent_id: str) -> Any:
        return await self.get(f"/api/v1/agents/{agent_id}")

    async def agents(self, query: str = "limit=1000") -> list[Any]:
        page = await self.get(f"/api/v1/agents?{query}")
        return list(page["agents"])

    async def pool(self, name: str = POOL) -> Any:
        return await self.get(f"/api/v1/agents/pools/{name}")

    async def statuses(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for agent in await self.agents():
            found[agent["status"]] = found.get(agent["status"], 0) + 1
        return found

    async def running(self, count: int, *, timeout: float = 30) -> None:
        """Wait until exactly so many agents run."""

        async def all_run() -> bool:
            return (await self.statuses()) == ({"running": count} if count else {})

        try:
            await until(all_run, timeout=timeout)
        except AssertionError as error:
            error.add_note(f"{count} should run; there are {await self.statuses()}")
            raise

    async def is_status(self, agent_id: str, *statuses: str, timeout: float = 15) -> Any:
        """Wait until an agent has one of these statuses; the agent."""
        found: Any = None

        async def has() -> bool:
            nonlocal found
            found = await self.agent(agent_id)
            return found["status"] in statuses

        await until(has, timeout=timeout)
        return found

    async def workers(self) -> list[psutil.Process]:
        """The worker processes with agents by the registry, less those just gone."""
        listed = (await self.get("/api/v1/agents/monitor/dashboard"))["workers"]
        pids = {worker["pid"] for worker in listed if worker["pid"]}  # 0: ordered, not started yet
        found = []
        for pid in sorted(pids):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    # ---- the command line --------------------------------------------------------------------

    def muster(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of `muster` against this system."""
        done = subprocess.run(
            [*MUSTER, *arguments],
            cwd=self.folder,
            env={**self.env, "MUSTER_DATA_DIR": str(self.data)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    async def verify(self) -> None:
        """What `muster verify` does, without the start of a process."""
        views = self.env.get("MUSTER_DATABASE_URL") or f"sqlite:///{self.views()}"
        report = await verify(self.redis_url, "", views)
        assert report.equal, report.differences


def _outside() -> dict[str, str]:
    """The environment of the test run, less what it says to Muster."""
    ours = ("MUSTER_", "REDIS_", "DATABASE_URL", "PGBOUNCER_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def name_of(process: psutil.Process) -> str:
    """Empty of one that has ended since it was found."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def only(items: Iterable[Any]) -> Any:
    [item] = items
    return item
