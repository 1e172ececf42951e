"""`python -m tests.frameworks`: five frameworks, twenty agents each, and what happens to them.

They are terminated, killed, drained and restarted; their model is away, and slow; the system stops
and starts. No agent may fail for good, nothing may be left over, no line may be wrong.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.system import System
from tests.frameworks.model import QUICK_SECONDS, Model
from tests.waiting import until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/frameworks"
POOLS = ("graph", "openai_agents", "pydantic_ai", "mcp_client", "process_pool")
EACH = 20
ALL = EACH * len(POOLS)
SLOW_SECONDS = 15.0
QUIET = frozenset({"debug", "info"})
EXPECTED = frozenset({"agent.failing", "worker.signalled", "worker.lost", "worker.reaped"})
"""Warnings that the trial asks for: agents without a model, workers that it kills."""
STALLS = frozenset({"worker.loop_stalled", "worker.process_stalled"})
"""Where a hundred agents share a few cores, frameworks that build a client hold a loop for long."""


class Trial:
    """The steps, in order. Each raises `AssertionError` if it did not go as it has to."""

    def __init__(self, system: System, model: Model, seconds: float) -> None:
        self.system, self.model, self.seconds = system, model, seconds

    @property
    def steps(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "a hundred agents start and work": self.start,
            "some are terminated, others take their place": self.terminate,
            "a worker of each pool is killed": self.kill,
            "the workers of each pool are replaced": self.drain,
            f"the model is away for {self.seconds:g} s": self.away,
            f"the model is slow for {self.seconds:g} s": self.slow,
            "the system stops and starts": self.restart,
            "all are terminated, nothing is left over": self.end,
            "no agent failed, no log line is wrong": self.nothing_wrong,
        }

    async def start(self) -> None:
        await self._spawn(EACH)
        await self._works()

    async def terminate(self) -> None:
        by_pool: Counter[str] = Counter()
        for agent in await self.system.agents():
            by_pool[agent["pool_name"]] += 1
            if by_pool[agent["pool_name"]] <= 2:
                await self._terminate(agent)
        await self._spawn(2)
        await self._works()

    async def kill(self) -> None:
        for workers in (await self._workers()).values():
            psutil.Process(workers[0]["pid"]).kill()
        await self._works(settle=True)

    async def drain(self) -> None:
        """Each worker is replaced for its age, in good order."""
        before = {w["worker_id"] for ws in (await self._workers()).values() for w in ws}
        await self._change_pools(max_worker_age_seconds=1)
        changed = False

        async def replaced() -> bool:
            nonlocal changed
            now = {w["worker_id"] for ws in (await self._workers()).values() for w in ws}
            if not changed and not now & before:
                await self._change_pools(max_worker_age_seconds=None)
                changed = True
            return changed and (await self.system.statuses()).get("running") == ALL

        await until(replaced, timeout=180, interval=0.5)
        await self._works(settle=True)

    async def away(self) -> None:
        self.model.stop()
        await asyncio.sleep(self.seconds)
        await self.model.start()
        await self._works(settle=True)

    async def slow(self) -> None:
        before = await self._incarnations()
        await self.model.slow(SLOW_SECONDS)
        await asyncio.sleep(self.seconds)
        await self.model.slow(QUICK_SECONDS)
        await self._works()
        assert await self._incarnations() == before, "a slow model restarted agents"

    async def restart(self) -> None:
        before = {agent["agent_id"] for agent in await self.system.agents()}
        assert await self.system.stop() == 0
        await self.system.start()
        await self._works(settle=True)
        after = {a["agent_id"] for a in await self.system.agents() if a["status"] == "running"}
        assert after <= before, "agents that nobody asked for"

    async def end(self) -> None:
        for agent in await self.system.agents("limit=1000&status=running"):
            await self._terminate(agent)
        await self.system.running(0, timeout=60)
        ours = {p.pid for p in await self.system.workers()}
        left: dict[int, list[str]] = {}
        for pid in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                left |= {p.pid: p.cmdline() for p in psutil.Process(pid).children(recursive=True)}
        assert not left, f"processes left over: {left}"

    async def nothing_wrong(self) -> None:
        kinds = Counter(event["type"] for event in self._events())
        print("    events:", dict(sorted(kinds.items())))
        assert not kinds["agent.failed"], "agents failed for good"
        await self.system.verify()
        lines = self._lines()
        stalls = [line["seconds"] for line in lines if line.get("event") in STALLS]
        print(f"    stalls of 1 s or more: {len(stalls)}, of {max(stalls, default=0)} s at most")
        wrong = [line for line in lines if not _right(line)]
        for line in wrong[:20]:
            print("   ", json.dumps(line)[:1000])
        assert not wrong, f"{len(wrong)} lines are wrong"

    # ---- parts ---------------------------------------------------------------------------------

    async def _spawn(self, each: int) -> None:
        wanted = [self.system.spawn(pool, pool, max_idle_time=None) for pool in POOLS * each]
        await asyncio.gather(*wanted)
        await self._running(ALL)

    async def _terminate(self, agent: dict[str, Any]) -> None:
        body = {"pool_name": agent["pool_name"], "agent_id": agent["agent_id"]}
        headers = {"Prefer": "wait=30"}
        status, ended = await self.system.call(
            "POST", "/api/v1/agents/terminate", body, headers=headers
        )
        assert (status, ended["status"]) == (200, "terminated"), ended

    async def _works(self, *, settle: bool = False) -> None:
        """All run, and the model hears of them all."""
        await self._running(ALL, timeout=330 if settle else 90)
        await self.model.is_asked(2 * ALL)

    async def _running(self, count: int, *, timeout: float = 120) -> None:
        async def all_run() -> bool:
            found = await self.system.agents("limit=1000&status=running")
            return len(found) == count

        try:
            await until(all_run, timeout=timeout, interval=0.5)
        except AssertionError as error:
            error.add_note(f"{count} should run; there are {await self.system.statuses()}")
            raise

    async def _incarnations(self) -> dict[str, int]:
        running = await self.system.agents("limit=1000&status=running")
        return {agent["agent_id"]: agent["incarnation"] for agent in running}

    async def _workers(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for worker in (await self.system.get("/api/v1/agents/monitor/dashboard"))["workers"]:
            if worker["status"] == "active":
                found.setdefault(worker["pool_name"], []).append(worker)
        return found

    async def _change_pools(self, **config: Any) -> None:
        for pool in POOLS:
            path = f"/api/v1/agents/pools/{pool}"
            status, answer = await self.system.call("PATCH", path, {"config": config})
            assert status == 200, answer

    def _events(self) -> list[dict[str, Any]]:
        said = self.system.muster("tail", "--from", "0", "-o", "jsonl").stdout
        return [json.loads(line) for line in said.splitlines()]

    def _lines(self) -> list[dict[str, Any]]:
        files = (self.system.data / "logs").rglob("*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _right(line: dict[str, Any]) -> bool:
    if "never retrieved" in json.dumps(line):
        return False
    return line.get("level", "info") in QUIET or line.get("event") in EXPECTED | STALLS


async def run(seconds: float, folder: Path) -> int:
    model = Model()
    await model.start()
    env = {"MODEL_URL": f"{model.url}/v1"}
    try:
        async with System(folder, "--config", str(EXAMPLE / "muster.toml"), env=env) as system:
            for name, step in Trial(system, model, seconds).steps.items():
                began = time.monotonic()
                print(f"… {name}", flush=True)
                try:
                    await step()
                except AssertionError as error:
                    print("\n".join([f"FAILED: {error}", *getattr(error, "__notes__", ())]))
                    return 1
                print(f"ok in {time.monotonic() - began:.0f} s", flush=True)
    finally:
        model.stop()
    return 0


def main() -> int:
    """Exit code 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks")
    parser.add_argument("--seconds", type=float, default=60, help="of an outage (60)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in this folder, and leave it")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True)
        return asyncio.run(run(args.seconds, args.keep.resolve()))
    with tempfile.TemporaryDirectory(prefix="muster-frameworks-") as folder:
        return asyncio.run(run(args.seconds, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
