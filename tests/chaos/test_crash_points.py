"""A process is killed at a named place, and everything comes out right by itself.

    gateway     before-append, after-append, after-flag (of a termination)
    worker      before-started (its own), after-claim, after-start, after-started (its agent's),
                during-stop, before-terminated, after-draining, after-released
    projector   before-commit, after-commit, before-trim (the archive is written), after-trim
    rebuild     before-switch, within-switch, after-switch
    recovery    after-halt, -wipe, -begin, -record, before-open, after-open
    supervisor  before-fork, after-fork
    leader      before-append
    reap        before-fence, before-chunk-1, -2, -3, before-forget

`places` defines each place. After each crash the parent (or the test) starts the same part again;
then every request has had its effect, and the judge finds no offence, at rest.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from eventstore.ids import new_id
from gateway.server.listener import Gateway
from projector.recovery.recovery import Recovery, recover
from projector.service.projector import Projector
from tests.chaos.crashing import at_once
from tests.chaos.judging.commands import Command
from tests.chaos.places import PLACES
from tests.chaos.scene import BRIEF, QUICK, Scene, open_scene
from tests.integration.projector.stage import POOL, Stage
from tests.waiting import until

TESTED: set[str] = set()
LEASE_SECONDS = 20.0


def places(*prefixes: str) -> "pytest.MarkDecorator":
    """All places of some kind, each a case."""
    names = [name for name in PLACES if name.startswith(prefixes)]
    TESTED.update(names)
    return pytest.mark.parametrize("place", names)


def only(*names: str) -> "pytest.MarkDecorator":
    TESTED.update(names)
    return pytest.mark.parametrize("place", names)


@pytest.fixture(autouse=True)
def _no_other_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash here is noticed on the same host, without a lapsed lease. So no lease may lapse:
    neither a worker's nor a projector's that is only delayed.
    """
    monkeypatch.setitem(QUICK, "lease_seconds", LEASE_SECONDS)
    projector = Stage.projector

    def patient(stage: Stage, **options: Any) -> Projector:
        return projector(stage, **{"lease_seconds": LEASE_SECONDS, **options})

    monkeypatch.setattr(Stage, "projector", patient)


@pytest.fixture
async def scene(redis_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(redis_url, tmp_path) as opened:
        yield opened


# ---- gateway -----------------------------------------------------------------------------------


async def ask(url: str, path: str, body: dict[str, str], key: str) -> int:
    """A careful client's request; 0: no answer came."""
    headers = {"Idempotency-Key": key, "Prefer": "respond-async"}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/api/v1/agents/{path}", json=body, headers=headers) as response,
        ):
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


@only("gateway-before-append", "gateway-after-append")
async def test_a_spawn_whose_gateway_died_is_one_agent(scene: Scene, place: str) -> None:
    """The client got no answer, repeats with its key elsewhere, and gets the same agent."""
    process = await scene.doomed(place, "gateway")
    url = await asyncio.to_thread(process.report)
    body, key = {"project_id": "p", "role_type": "developer", "pool_name": POOL}, new_id()
    assert await ask(url, "spawn", body, key) == 0
    await scene.died(process)
    assert scene.events().count("agent.requested") == (place == "gateway-after-append")
    scene.commands.append(Command("spawn", "unknown", POOL, operation_id=key))
    await scene.supervise()
    gateway = Gateway(scene.gateway_options())
    await gateway.start()
    try:
        assert await ask(gateway.url, "spawn", body, key) in (200, 202)
    finally:
        await gateway.stop()
    scene.commands.append(Command("spawn", "acknowledged", POOL, operation_id=key))
    await scene.running(1)
    assert scene.events().count("agent.requested") == 1
    await scene.at_rest()


@only("gateway-after-flag")
async def test_a_termination_whose_gateway_died_is_carried_out(scene: Scene, place: str) -> None:
    await scene.supervise()
    [name] = await scene.spawn(1)
    await scene.running(1)
    process = await scene.doomed(place, "gateway")
    url = await asyncio.to_thread(process.report)
    assert await ask(url, "terminate", {"pool_name": POOL, "agent_id": name}, "") == 0
    await scene.died(process)
    await scene.running(0)
    await scene.at_rest()


# ---- worker ------------------------------------------------------------------------------------


@only("worker-before-started", "worker-after-claim", "worker-after-start", "worker-after-started")
async def test_a_spawn_whose_worker_died_runs_elsewhere(
    scene: Scene, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.doom_workers(place, monkeypatch)
    await scene.supervise()
    await scene.spawn(3)
    await scene.died()
    await scene.recorded("worker.lost")
    await scene.running(3)
    assert scene.events().count("worker.lost") == 1
    await scene.at_rest()


@only("worker-during-stop", "worker-before-terminated")
async def test_an_agent_whose_worker_died_while_it_was_to_end_has_ended(
    scene: Scene, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not run again; its neighbours do."""
    scene.doom_workers(place, monkeypatch)
    await scene.supervise()
    name, *_ = await scene.spawn(3, stops_for=0.2)  # long enough to be interrupted
    await scene.running(3)
    await scene.terminate(name)
    await scene.died()
    await scene.running(2)
    assert scene.events().count("agent.terminated") == 1
    await scene.at_rest()


@only("worker-after-draining", "worker-after-released")
async def test_an_interrupted_drain_leaves_no_agent_behind(
    scene: Scene, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.doom_workers(place, monkeypatch)
    await scene.supervise()
    await scene.spawn(3)
    await scene.running(3)
    pid = await scene.worker_pid()
    if place == "worker-after-released":
        await scene.order_drain()
    os.kill(pid, signal.SIGTERM)
    await scene.died()
    await scene.recorded("worker.lost")
    await scene.running(3)
    assert scene.events().count("worker.lost") == 1
    await scene.at_rest()


# ---- supervisor --------------------------------------------------------------------------------


@places("supervisor-", "leader-")
async def test_a_launch_whose_supervisor_died_happens_once(scene: Scene, place: str) -> None:
    process = await scene.doomed(place, "supervisor")
    await scene.spawn(3)
    await scene.died(process)
    await scene.supervise()
    await scene.running(3)
    assert scene.events().count("worker.started") == 1
    await scene.at_rest()


@places("reap-")
async def test_a_reap_whose_supervisor_died_is_continued(scene: Scene, place: str) -> None:
    process = await scene.doomed(place, "supervisor")
    await scene.spawn(3)
    await scene.running(3)
    os.kill(await scene.worker_pid(), signal.SIGKILL)
    await scene.died(process)
    await scene.supervise()
    await scene.recorded("agent.lost", 3)
    await scene.running(3)
    assert scene.events().count("worker.lost") == 1
    assert scene.events().count("agent.lost") == 3
    await scene.at_rest()


# ---- projector ---------------------------------------------------------------------------------


@places("projector-")
async def test_a_projector_that_died_is_followed_by_one_that_misses_nothing(
    redis_url: str, tmp_path: Path, place: str
) -> None:
    """And that continues trimming, but only archived events."""
    async with open_scene(redis_url, tmp_path, projecting=False) as scene:
        process = await scene.doomed(place, "projector")
        await scene.stage.play(scene.pool)
        await scene.died(process)
        await scene.stage.play(scene.pool, "x")
        async with scene.stage.projecting(retention=BRIEF, trim_seconds=0.1):
            await scene.stage.settle(POOL)
            await until(lambda: len(scene.events()) == BRIEF.events)
        await scene.judged()


@places("rebuild-")
async def test_a_rebuild_that_died_leaves_correct_views(scene: Scene, place: str) -> None:
    """The serving projector continues, with the old rows or the new ones; a next rebuild works."""
    from projector.rebuild.rebuild import replay

    await scene.stage.play(scene.pool)
    await scene.stage.settle(POOL)
    process = await scene.doomed(place, "replay")
    await scene.died(process)
    await scene.stage.play(scene.pool, "x")
    await scene.stage.settle(POOL)
    await scene.judged()
    await replay(scene.rebuild_options(), lambda _: None)
    await scene.judged()
    left = await scene.stage.sql("SELECT name FROM sqlite_master WHERE name LIKE 'fresh_%'")
    assert left == []


# ---- recovery ----------------------------------------------------------------------------------


@places("recovery-")
async def test_a_recovery_that_died_is_started_again(
    redis_url: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis lost everything. The catalogue comes first, so the second log is the pool's."""
    monkeypatch.setattr(Recovery, "_wait_for_leases", at_once)
    async with open_scene(redis_url, tmp_path, projecting=False) as scene:
        living = await scene.stage.play(scene.pool)
        scene.commands += [Command("spawn", pool=POOL, agent_id=name) for name in living]
        async with scene.stage.projecting():
            await scene.stage.settle(POOL)
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        process = await scene.doomed(place, "recover")
        await scene.died(process)
        await recover(scene.recovery_options(), lambda _: None)
        scene.stage.log.raise_high_water_mark(POOL, 9, 0)
        async with scene.stage.projecting():
            await scene.judged()
        assert {"log.recovered", "agent.lost"} <= set(scene.events())


def test_every_crash_point_is_tested() -> None:
    assert PLACES.keys() == TESTED
