"""The agents of a run do what their input says, and nothing else."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import agents
from tests.chaos.agents import Tested


def context(do: str, incarnation: int = 1) -> Any:
    return SimpleNamespace(
        fencing_token=SimpleNamespace(generation=1, seq=7),
        pool_name="wild",
        agent_id="a",
        incarnation=incarnation,
        input={"do": do, "after": 0.01, "for": 0.01},
    )


@pytest.fixture(autouse=True)
def _outside_of_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CHAOS_TRACE", str(tmp_path))
    monkeypatch.setattr(agents, "worker_id", lambda: "w1")
    monkeypatch.setattr(agents, "TICK_SECONDS", 0.01)


async def test_an_agent_whose_check_raises_runs_until_it_is_ended_as_unhealthy():
    """Raising in its run, too, it would crash before two of its checks have failed."""
    agent, asked = Tested(), context("raise-in-check")
    await agent.start(asked)
    running = asyncio.create_task(agent.run(asked))
    done, _ = await asyncio.wait({running}, timeout=0.2)
    assert not done
    with pytest.raises(RuntimeError, match="as requested"):
        await agent.check(asked)
    running.cancel()
    await asyncio.wait({running})


async def test_an_agent_whose_run_raises_does_so_once():
    agent, asked = Tested(), context("raise-in-run")
    await agent.start(asked)
    with pytest.raises(RuntimeError, match="as requested"):
        await agent.run(asked)
    again, asked = Tested(), context("raise-in-run", incarnation=2)
    await again.start(asked)
    running = asyncio.create_task(again.run(asked))
    done, _ = await asyncio.wait({running}, timeout=0.2)
    assert not done
    running.cancel()
    await asyncio.wait({running})
