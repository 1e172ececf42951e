"""A worker whose event loop does not turn has no room, and what it hangs in is named."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.integration.workers.hosts import POOL, Site
from tests.pools import data, raw_events
from tests.waiting import until

AGENTS = """
import asyncio, ctypes, pathlib, time
from workers.api.agent import Agent

class Blocking(Agent):
    async def run(self, context):
        first = context.incarnation == 1
        if first and context.labels.get("hold"):
            ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
        release = pathlib.Path(__file__).with_name("release")
        if first and context.labels.get("block"):
            while not release.exists():
                time.sleep(0.05)
        await asyncio.Event().wait()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stalling_agents.py").write_text(AGENTS)
    return tmp_path


async def stalls(site: Site) -> dict[str, str]:
    found = await site.log.client.execute_command("HGETALL", f"pool:{{{POOL}}}:stalled")
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {name.decode(): text.decode() for name, text in pairs}


async def test_a_stalled_worker_is_passed_over_and_replaced_once(site: Site, folder: Path):
    """Its free slot is no room: what is asked for runs in another worker, while it is stalled."""
    pool = await site.pool(agents_per_worker=3, loop_stall_seconds=60.0)
    await site.host(agent="stalling_agents:Blocking")
    first = await pool.spawn(labels={"block": "yes"})
    await until(lambda: stalls(site), what="the stall is reported")
    [(worker_id, where)] = (await stalls(site)).items()
    assert where.startswith(f"stalled in {folder}/stalling_agents.py:")
    assert where.endswith(f" run (agent {first.agent_id})")
    await asyncio.gather(pool.spawn(), pool.spawn())
    await site.until_running(3)
    survey = await site.survey()
    assert sorted((o.worker.worker_id == worker_id, o.agent_count) for o in survey.workers) == [
        (False, 2),
        (True, 1),
    ]
    assert (survey.free, survey.room) == (3, 1)  # the figures count all free slots
    (folder / "release").touch()

    async def cleared() -> bool:
        return not await stalls(site)

    await until(cleared, what="the loop turns again")
    line = next(
        line
        for text in (folder / "logs" / POOL / f"{worker_id}.jsonl").read_text().splitlines()
        if (line := msgspec.json.decode(text)).get("event") == "worker.loop_stalled"
    )
    assert (line["level"], line["agent_id"]) == ("warning", first.agent_id)
    site.check()


async def test_the_reason_of_a_loss_says_where_the_worker_was_stalled(site: Site, folder: Path):
    pool = await site.pool(
        agents_per_worker=1, lease_seconds=2.0, loop_stall_seconds=1.5, renew_seconds=0.3
    )
    await site.host(agent="stalling_agents:Blocking")
    blocking, holding = [await pool.spawn(labels={how: "yes"}) for how in ("block", "hold")]

    def reasons() -> dict[str, str]:
        lost = [event for event in raw_events(site.url) if event["type"] == "agent.lost"]
        return {event["subject"]: data(event)["reason"] for event in reversed(lost)}

    await until(lambda: len(reasons()) == 2, what="both losses", timeout=15)
    line = 1 + AGENTS.splitlines().index("                time.sleep(0.05)")
    place = f"; stalled in {folder}/stalling_agents.py:{line} run (agent {blocking.agent_id})"
    assert reasons()[blocking.agent_id].endswith(place)
    held = "code does not release the interpreter's lock"
    assert reasons()[holding.agent_id].endswith(held)
