"""What becomes of agents is logged, but not each of very many starts and ends."""

from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from eventstore.language.agents import Agent as State
from eventstore.language.agents import Status
from eventstore.language.pool_config import PoolConfig
from eventstore.steps.step import Fence
from workers.api.engine import Database
from workers.runtime.settlement import Settlement
from workers.runtime.stop_signal import StopSignal
from workers.runtime.worker_context import WorkerContext

NO_LOG: Any = None


async def test_of_many_starts_some_are_logged_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("workers.output.limits.time.monotonic", lambda: now)
    context = WorkerContext(
        log=NO_LOG,
        fence=Fence("w", 1),
        config=PoolConfig(),
        roles={},
        database=Database(""),
        output=None,
    )
    state = State(agent_id="a", pool_name="p", role_type="r", project_id="x")

    def log(status: Status) -> None:
        Settlement(context, replace(state, status=status), StopSignal(context.loop)).log_status()

    with capture_logs() as lines:
        for _ in range(150):
            log(Status.RUNNING)
    assert [line["event"] for line in lines] == ["agent.started"] * len(lines)
    assert len(lines) == 100
    with capture_logs() as lines:
        log(Status.FAILED)
        log(Status.TERMINATED)
        now += 3
        log(Status.TERMINATED)
    assert [line["event"] for line in lines] == ["agent.failed", "agent.terminated"]
    assert lines[0]["left_out"] == 50
    assert lines[1]["left_out"] == 1
