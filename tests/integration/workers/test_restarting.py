"""When and how often agents start again: outages, losses, signals, requests, missing roles."""

import asyncio
import os
import signal

import msgspec
import pytest

import muster
from eventstore.language.agent_commands import RequestRestart
from eventstore.language.agents import Status
from tests.integration.workers.hosts import POOL, Site
from tests.pools import data, raw_events, types
from tests.waiting import until
from tests.worker_pool import ORIGIN, WorkerPool
from tests.worker_pool import POOL as TESTED
from workers.api.agent import Agent, Context

DEPENDENT = """
import asyncio
from pathlib import Path
from muster import Agent

UP = Path(__file__).with_name("up")

class Dependent(Agent):
    async def start(self, context):
        if context.input.get("at") == "start":
            self.ask()
    async def run(self, context):
        while True:
            self.ask()
            await asyncio.sleep(0.02)
    def ask(self):
        if not UP.exists():
            raise ConnectionError("the model does not answer")
"""
SIGNALLING = """
import asyncio, os, signal
from pathlib import Path
from muster import Agent

class Signalling(Agent):
    async def run(self, context):
        if context.input.get("sends"):
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    async def stop(self, context):
        (Path(__file__).parent / f"stopped-{context.agent_id}-{context.incarnation}").touch()
"""


@pytest.mark.parametrize("where", ["start", "run", "check"])
async def test_what_is_unavailable_is_no_failure(pool: WorkerPool, where: str) -> None:
    """It waits as long as the agent says, for that reason, and nothing is counted."""

    class Later(Agent):
        async def raise_in(self, method: str, context: Context) -> None:
            if method == where and context.incarnation < 3:
                raise muster.Unavailable("no model\nat all", retry_after=0.3)

        async def start(self, context: Context) -> None:
            await self.raise_in("start", context)

        async def run(self, context: Context) -> None:
            await self.raise_in("run", context)
            await asyncio.Event().wait()

        async def check(self, context: Context) -> None:
            await self.raise_in("check", context)

    await pool.worker(Later)
    agent_id = await pool.spawn(heartbeat_interval=0.05)
    for incarnation in (1, 2):
        agent = await pool.reached(agent_id, "restarting", incarnation=incarnation)
        assert agent.reason == "unavailable: no model"
        assert (agent.failures_in_row, agent.failures) == (0, ())
        [*_, failed] = [e for e in await pool.events(agent_id) if "error" in data(e)]
        body = data(failed)
        assert 300 <= body["due_ms"] - body["at_ms"] <= 330
        assert body["error"]["type"] == "muster.Unavailable"
        await pool.restart_due()
    await pool.reached(agent_id, "running", incarnation=3)


@pytest.mark.parametrize(
    ("raised", "milliseconds"),
    [
        (muster.Unavailable("x", retry_after=2), 2_000),
        (muster.Unavailable("x", retry_after=float("inf")), 86_400_000),
        (muster.Unavailable("x", retry_after=-1), 50),
        (muster.Unavailable("x", retry_after=float("nan")), 30_000),
        (muster.Unavailable("x", retry_after="soon"), 30_000),  # type: ignore[arg-type]
        (type("Mine", (muster.Unavailable,), {"__init__": lambda self: None})(), 30_000),
        (ExceptionGroup("g", [muster.Unavailable(retry_after=t) for t in (1, 3)]), 3_000),
        (ExceptionGroup("g", [muster.Unavailable(), ValueError()]), None),
        (ValueError("retry_after"), None),
    ],
)
async def test_how_long_it_waits_is_bounded(
    pool: WorkerPool, raised: Exception, milliseconds: int | None
) -> None:
    class Later(Agent):
        async def run(self, context: Context) -> None:
            raise raised

    await pool.worker(Later)
    agent_id = await pool.spawn()
    agent = await pool.reached(agent_id, "restarting")
    body = await pool.data(agent_id, "agent.crashed")
    waits = body["due_ms"] - body["at_ms"]
    if milliseconds is None:
        assert (agent.failures_in_row, waits) == (1, 50)
    else:
        assert agent.failures_in_row == 0
        assert milliseconds <= waits <= milliseconds * 1.1


async def test_a_requested_restart_stops_it_in_good_order(pool: WorkerPool) -> None:
    stopped: list[int] = []

    class Orderly(Agent):
        async def stop(self, context: Context) -> None:
            stopped.append(context.incarnation)

    await pool.worker(Orderly)
    [agent_id, other] = await pool.running(2)
    await pool.log.act(TESTED, agent_id, RequestRestart(reason="x"), ORIGIN)
    agent = await pool.reached(agent_id, "running", incarnation=2)
    assert (stopped, agent.restart) == ([1], False)
    assert (await pool.state(other)).incarnation == 1
    assert (await pool.data(agent_id, "agent.released"))["reason"] == "restart-requested"


async def test_after_an_outage_all_run_again_within_the_longest_back_off(site: Site) -> None:
    """What all agents need is away for many times the longest back-off. None has failed."""
    (site.folder / "dependent.py").write_text(DEPENDENT)
    up = site.folder / "up"
    up.touch()
    pool = await site.pool(backoff_min_seconds=0.05, backoff_max_seconds=0.15)
    ids = [(await pool.spawn()).agent_id for _ in range(4)]
    ids += [(await pool.spawn(input=msgspec.Raw(b'{"at":"start"}'))).agent_id for _ in range(4)]
    await site.host(agent="dependent:Dependent")
    await site.until_running(8)
    up.unlink()
    await until(lambda: types(site.url).count("agent.crashed") >= 8)

    async def often() -> bool:
        """Each has failed more often than the limits that there once were."""
        agents = [await site.log.agent(POOL, name) for name in ids]
        return all(agent is not None and agent.failures_in_row > 6 for agent in agents)

    await until(often, timeout=15)
    up.touch()
    await site.until_running(8, timeout=0.15 + 2.0)
    assert "agent.failed" not in types(site.url)
    site.check(acknowledged=ids)


async def test_what_never_got_through_its_start_fails(site: Site) -> None:
    (site.folder / "dependent.py").write_text(DEPENDENT)
    pool = await site.pool(start_limit=2)
    agent_id = (await pool.spawn(input=msgspec.Raw(b'{"at":"start"}'))).agent_id
    await site.host(agent="dependent:Dependent")

    async def failed() -> bool:
        agent = await site.log.agent(POOL, agent_id)
        return agent is not None and agent.status is Status.FAILED

    await until(failed)
    [event] = [e for e in raw_events(site.url) if e["type"] == "agent.failed"]
    assert data(event) == {"reason": "start-budget-spent", "failures": 3}
    site.check(acknowledged=[agent_id])


async def test_an_agent_that_signals_its_own_worker_comes_to_rest(site: Site) -> None:
    """It is isolated after the second time; then it is its own failure, with a back-off each time.

    Its neighbours are stopped in good order, and start again.
    """
    (site.folder / "signalling.py").write_text(SIGNALLING)
    pool = await site.pool(restart_limit=1, suspicion_window_seconds=4.0)
    neighbours = [(await pool.spawn()).agent_id for _ in range(2)]
    sender = (await pool.spawn(input=msgspec.Raw(b'{"sends":true}'))).agent_id
    await site.host(agent="signalling:Signalling")

    async def failed() -> bool:
        agent = await site.log.agent(POOL, sender)
        return agent is not None and agent.status is Status.FAILED

    await until(failed, timeout=30)
    await site.until_running(2)
    lost = [data(e) for e in raw_events(site.url) if e["type"] == "agent.lost"]
    assert {one["reason"] for one in lost} == {"it drained, which nothing ordered"}
    sent = [data(e) for e in of_agent(site.url, sender) if e["type"] == "agent.lost"]
    assert ["due_ms" in one for one in sent] == [False, *[True] * (len(sent) - 2), False]
    assert "agent.released" not in types(site.url)
    for neighbour in neighbours:
        assert (site.folder / f"stopped-{neighbour}-1").exists()
    site.check(acknowledged=[*neighbours, sender])


def of_agent(url: str, agent_id: str) -> list[dict[str, str]]:
    return [event for event in raw_events(url) if event["subject"] == agent_id]


async def test_a_worker_that_an_operator_ends_is_replaced(site: Site) -> None:
    """`kill PID`: its agents are stopped in good order and run again at once, the first time."""
    (site.folder / "signalling.py").write_text(SIGNALLING)
    pool = await site.pool()
    await site.host(agent="signalling:Signalling")
    ids = await site.run(pool, 3)
    [pid] = (await site.workers()).values()
    os.kill(pid, signal.SIGTERM)
    await until(lambda: types(site.url).count("agent.lost") == 3)
    await site.until_running(3)
    for agent_id in ids:
        assert (site.folder / f"stopped-{agent_id}-1").exists()
    assert await site.incarnations() == {2: 3}
    site.check(acknowledged=ids)


async def test_a_host_that_shuts_down_releases(site: Site) -> None:
    """Also where every process of it gets the signal at the same time.

    The worker waits a second for the order. It is stopped while the host is cordoned, which comes
    first and may take longer on a busy machine.
    """
    (site.folder / "signalling.py").write_text(SIGNALLING)
    pool = await site.pool()
    supervisor = await site.host(agent="signalling:Signalling")
    ids = await site.run(pool, 3)
    [pid] = (await site.workers()).values()
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    stopping = asyncio.create_task(supervisor.stop())
    await until(lambda: supervisor._catalogue.state.hosts["h1"].status == "cordoned")
    os.kill(pid, signal.SIGCONT)
    await stopping
    assert types(site.url).count("agent.released") == 3
    assert "agent.lost" not in types(site.url)
    site.check(acknowledged=ids)


async def test_agents_of_a_role_that_is_not_declared_wait_until_it_is(site: Site) -> None:
    """It was renamed in the file of the only host. Nothing is counted."""
    pool = await site.pool()
    first = await site.host()
    ids = await site.run(pool, 3)
    await first.stop()
    other = await site.host(roles={"renamed": "workers.builtin:Placeholder"})

    async def waiting() -> bool:
        return (await site.survey()).blocked.startswith("role-not-declared: ")

    await until(waiting)
    for agent_id in ids:
        agent = await site.log.agent(POOL, agent_id)
        assert agent is not None
        assert (agent.status, agent.failures_in_row) == (Status.PENDING, 0)
    await other.stop()
    await site.host()
    await site.until_running(3)
    assert "agent.start_failed" not in types(site.url)
    site.check(acknowledged=ids)


async def test_another_host_that_declares_the_role_takes_over(site: Site) -> None:
    pool = await site.pool(agents_per_worker=2)
    await site.host("h1", roles={"renamed": "workers.builtin:Placeholder"})
    ids = [(await pool.spawn()).agent_id for _ in range(2)]
    await until(lambda: "worker.stopped" in types(site.url))
    await site.host("h2")
    await site.until_running(2)
    assert "agent.start_failed" not in types(site.url)
    site.check(acknowledged=ids)
