"""The agents of a run do what their input says, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import agents
from tests.chaos.agents import Immediate, Tested
from tests.waiting import until


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


async def test_an_agent_that_idles_says_when_it_works(tmp_path: Path):
    """The judge believes it: what it says last is whether its work was interrupted."""
    said: list[bool] = []

    @asynccontextmanager
    async def idle() -> AsyncIterator[None]:
        said.append(last_said(tmp_path))
        yield

    agent, asked = Immediate(), context("")
    asked.input, asked.idle = {"idles": True}, idle
    running = asyncio.create_task(agent.run(asked))
    await until(lambda: len(said) > 1, what="that it was idle twice")
    running.cancel()
    await asyncio.wait({running})
    assert not any(said)


def last_said(folder: Path) -> bool:
    """Whether it is busy, by its record."""
    [file] = folder.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return bool([line["busy"] for line in lines if "busy" in line][-1])
