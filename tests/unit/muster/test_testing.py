"""`muster.testing`: an agent class in a test, with the outcomes that it has in a worker."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

import muster
from muster import Agent, Context
from muster.testing import AgentFailed, DidNotEnd, run, running
from workers.api.agent import WorkerInfo

ROOT = Path(__file__).parents[3]


class Counter(Agent):
    """Counts its work; tells of everything."""

    async def start(self, context: Context) -> None:
        self.log = ["start"]
        self.stack = AsyncExitStack()
        await self.stack.enter_async_context(asyncio.timeout(60))
        context.logger.info("hello", task=context.input.get("task"))

    async def run(self, context: Context) -> None:
        for _ in range(context.input.get("rounds", 1_000_000)):
            self.log.append("work")
            context.touch()
            async with context.idle():
                await asyncio.sleep(0.001)

    async def check(self, context: Context) -> None:
        self.log.append("check")

    async def stop(self, context: Context) -> None:
        await self.stack.aclose()
        self.log.append("stop")


def test_an_agent_runs_to_its_own_end() -> None:
    agent = run(Counter, input={"rounds": 3, "task": 1})
    assert (agent.outcome, agent.error, agent.touches) == ("completed", None, 3)
    assert agent.instance.log == ["start", *["work"] * 3, "stop"]
    assert agent.context.activity == ["idle", "busy"] * 3
    assert agent.logged("hello", task=1)
    assert not agent.logged("hello", task=2)
    assert agent.events[-3:] == ("agent.claimed", "agent.started", "agent.terminated")


def test_an_agent_is_stopped_once_it_did_what_was_waited_for() -> None:
    agent = run(Counter, until=lambda agent: agent.touches >= 3)
    assert agent.outcome == "requested"
    assert agent.instance.log[-1] == "stop"


def test_an_agent_without_run_is_stopped_once_it_has_started() -> None:
    class Quiet(Agent):
        async def start(self, context: Context) -> None:
            context.logger.info("ready", project=context.project_id)

    agent = run(Quiet, project_id="apollo")
    assert (agent.outcome, agent.logged("ready", project="apollo")) == ("requested", True)


class Broken(Agent):
    """Raises where its input says."""

    async def start(self, context: Context) -> None:
        self.part = context.input["part"]
        self.fail("start")

    async def run(self, context: Context) -> None:
        self.fail("run")
        await asyncio.sleep(0 if self.part == "stop" else 60)

    async def check(self, context: Context) -> None:
        self.fail("check")

    async def stop(self, context: Context) -> None:
        self.fail("stop")

    def fail(self, part: str) -> None:
        if part == self.part:
            raise ValueError(f"{part} is broken")


@pytest.mark.parametrize(
    ("part", "outcome"),
    [("start", "start_failed"), ("run", "crashed"), ("check", "unhealthy"), ("stop", "completed")],
)
def test_what_an_agent_raises_is_its_outcome_and_raises_nothing(
    part: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, so that pytest shows it of a test that fails."""
    agent = run(Broken, input={"part": part}, heartbeat_interval=0.01)
    assert agent.outcome == outcome
    if part != "stop":
        assert f"{part} is broken" in caplog.text
        assert agent.error is not None
        assert agent.error.message == f"{part} is broken"
        assert "test_testing.py" in repr(agent)
        assert "in fail" in repr(agent)


def test_an_agent_may_say_that_something_is_unavailable() -> None:
    class Waiting(Agent):
        async def run(self, context: Context) -> None:
            raise muster.Unavailable("the model is away", retry_after=3)

    agent = run(Waiting)
    assert agent.error is not None
    assert (agent.outcome, agent.error.retry_after_ms) == ("unavailable", 3000)


def test_limits_are_those_of_a_pool() -> None:
    class Slow(Agent):
        async def start(self, context: Context) -> None:
            await asyncio.sleep(60)

    class Idle(Agent):
        pass

    agent = run(Slow, start_timeout=0.05)
    assert (agent.outcome, agent.error and agent.error.type) == ("start_failed", "TimeoutError")
    assert run(Idle, max_idle_time=0.01, until=lambda agent: agent.outcome).outcome == "idle"


def test_where_an_agent_waits_is_said_when_it_does_not_end() -> None:
    class Waiting(Agent):
        async def run(self, context: Context) -> None:
            await self.wait()

        async def wait(self) -> None:
            await asyncio.sleep(60)

    with pytest.raises(DidNotEnd, match=r"`until=`(?s:.*)test_testing.py.*in wait"):
        run(Waiting, timeout=0.3)
    with pytest.raises(DidNotEnd, match="what was waited for did not come within"):
        run(Waiting, timeout=0.05, until=lambda _: False)


def test_where_the_event_loop_is_blocked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.testing.guard.BLOCKED_SECONDS", 0.2)

    class Blocking(Agent):
        async def run(self, context: Context) -> None:
            time.sleep(30)

    with pytest.raises(DidNotEnd, match=r"blocked the event loop(?s:.*)time.sleep\(30\)"):
        run(Blocking, timeout=0.2)


async def test_an_agent_can_be_looked_at_while_it_runs() -> None:
    async with running(Counter, input={"task": 7}) as agent:
        await agent.wait_until(lambda: agent.idle)
        await agent.check()
        assert "check" in agent.instance.log
        assert agent.outcome == ""
    assert agent.outcome == "requested"


async def test_a_failure_while_it_runs_fails_the_test_with_its_traceback() -> None:
    with pytest.raises(AgentFailed, match=r"run is broken(?s:.*)test_testing.py"):
        async with running(Broken, input={"part": "run"}) as agent:
            await agent.wait_until(lambda: False)
    with pytest.raises(AgentFailed, match="start is broken"):
        async with running(Broken, input={"part": "start"}):
            raise AssertionError("not reached")
    with pytest.raises(ValueError, match="check is broken"):
        async with running(Broken, input={"part": "check"}) as agent:
            await agent.check()


class Sharing(Agent):
    """Uses what a worker's agents share."""

    left: ClassVar[list[str]] = []

    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[str]:
        yield f"client of {worker.pool_name}"
        cls.left.append(worker.pool_name)

    async def start(self, context: Context) -> None:
        if context.shared is None:
            raise LookupError("nothing is shared")


def test_what_the_agents_of_a_worker_share_is_entered_or_given() -> None:
    agent = run(Sharing)
    assert (agent.context.shared, Sharing.left) == ("client of standalone", ["standalone"])
    agent = run(Sharing, shared="fake")
    assert (agent.context.shared, Sharing.left) == ("fake", ["standalone"])


def test_a_set_up_that_fails_is_an_outcome() -> None:
    class Broken(Agent):
        @classmethod
        @asynccontextmanager
        async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[None]:
            if worker.role_type:
                raise ConnectionError(worker.role_type)
            yield

    agent = run(Broken)
    assert agent.error is not None
    assert (agent.outcome, agent.error.type) == ("setup_failed", "ConnectionError")


async def test_a_set_up_that_hangs_has_ended_with_the_test() -> None:
    ended: list[str] = []

    class Hanging(Agent):
        @classmethod
        @asynccontextmanager
        async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[None]:
            try:
                await asyncio.Event().wait()
                yield
            finally:
                await asyncio.sleep(0.01)
                ended.append(worker.role_type)

    with pytest.raises(AgentFailed, match="took more than"):
        async with running(Hanging, start_timeout=0.05):
            raise AssertionError("not reached")
    assert ended == ["agent"]


async def test_tasks_that_an_agent_leaves_end_with_it() -> None:
    class Leaving(Agent):
        async def start(self, context: Context) -> None:
            self.task = asyncio.create_task(asyncio.sleep(60))

    async with running(Leaving) as agent:
        pass
    assert agent.instance.task.cancelled()


def test_the_documented_tests_run_under_plain_pytest(tmp_path: Path) -> None:
    """Without any plugin, in a folder of their own."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    folder = shutil.copytree(ROOT / "docs/examples/scribe", tmp_path / "scribe", ignore=ignored)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr
