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
from tests.forked import fork_zygotes
from tests.integration.projector.stage import POOL, Stage
from tests.waiting import until

TESTED: set[str] = set()
LEASE_SECONDS = 20.0


def places(*prefixes: str) -> list[str]:
    """All places whose names begin so."""
    names = [name for name in PLACES if name.startswith(prefixes)]
    TESTED.update(names)
    return names


def each(*prefixes: str) -> "pytest.MarkDecorator":
    """All places of some kind, each a case."""
    return pytest.mark.parametrize("place", places(*prefixes))


GATEWAY = places("gateway-before-append", "gateway-after-append")
TERMINATING_GATEWAY = places("gateway-after-flag")
STARTING = places("worker-before-started", "worker-after-claim", "worker-after-start")
ENDING = places("worker-during-stop", "worker-before-terminated")
DRAINING = places("worker-after-draining", "worker-after-released")
LAUNCHING = places("supervisor-", "leader-")
REAPING = places("reap-")


@pytest.fixture(autouse=True)
def _no_other_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash here is noticed on the same host, without a lapsed lease. So no lease may lapse:
    neither a worker's nor a projector's that is only delayed.
    """
    fork_zygotes(monkeypatch.setattr)
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


async def test_a_spawn_whose_gateway_died_is_one_agent(scene: Scene) -> None:
    """The client got no answer, repeats with its key elsewhere, and gets the same agent."""
    await scene.supervise()
    for number, place in enumerate(GATEWAY):
        process = await scene.doomed(place, "gateway")
        url = await asyncio.to_thread(process.report)
        scene.arm(place)
        body, key = {"project_id": "p", "role_type": "developer", "pool_name": POOL}, new_id()
        assert await ask(url, "spawn", body, key) == 0
        await scene.died(place, process)
        appended = number + (place == "gateway-after-append")
        assert scene.events().count("agent.requested") == appended
        scene.commands.append(Command("spawn", "unknown", POOL, operation_id=key))
        gateway = Gateway(scene.gateway_options())
        await gateway.start()
        try:
            assert await ask(gateway.url, "spawn", body, key) in (200, 202)
        finally:
            await gateway.stop()
        scene.commands.append(Command("spawn", "acknowledged", POOL, operation_id=key))
        await scene.running(number + 1)
        assert scene.events().count("agent.requested") == number + 1
        await scene.at_rest()


async def test_a_termination_whose_gateway_died_is_carried_out(scene: Scene) -> None:
    await scene.supervise()
    [place], [name] = TERMINATING_GATEWAY, await scene.spawn(1)
    await scene.running(1)
    process = await scene.doomed(place, "gateway")
    url = await asyncio.to_thread(process.report)
    scene.arm(place)
    assert await ask(url, "terminate", {"pool_name": POOL, "agent_id": name}, "") == 0
    await scene.died(place, process)
    await scene.running(0)
    await scene.at_rest()


# ---- worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "dies_at"), [("Starting", STARTING), ("Steady", STARTING[:2])])
async def test_a_spawn_whose_worker_died_runs_elsewhere(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, agent: str, dies_at: list[str]
) -> None:
    scene.agent = agent
    scene.doom_workers(dies_at, monkeypatch)
    await scene.supervise()
    for losses, place in enumerate(dies_at, 1):
        scene.arm(place)
        names = await scene.spawn(3)
        await scene.died(place)
        await scene.survived(names, losses)
    assert scene.events().count("worker.lost") == len(dies_at)


async def test_an_agent_whose_worker_died_while_it_was_to_end_has_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not run again; its neighbours do."""
    scene.doom_workers(ENDING, monkeypatch)
    await scene.supervise()
    for place in ENDING:
        name, *neighbours = await scene.spawn(3, stops_for=0.2)  # long enough to be interrupted
        await scene.running(3)
        before = scene.events().count("agent.terminated")
        scene.arm(place)
        await scene.terminate(name)
        await scene.died(place)
        await scene.running(2)
        assert scene.events().count("agent.terminated") == before + 1
        await scene.at_rest()
        await scene.terminate(*neighbours)
        await scene.running(0)


async def test_an_interrupted_drain_leaves_no_agent_behind(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.doom_workers(DRAINING, monkeypatch)
    await scene.supervise()
    for losses, place in enumerate(DRAINING, 1):
        names = await scene.spawn(3)
        await scene.running(3)
        pid = await scene.worker_pid()
        scene.arm(place)
        if place == "worker-after-released":
            await scene.order_drain()
        os.kill(pid, signal.SIGTERM)
        await scene.died(place)
        await scene.survived(names, losses)
    assert scene.events().count("worker.lost") == len(DRAINING)


# ---- supervisor --------------------------------------------------------------------------------


async def test_a_launch_whose_supervisor_died_happens_once(redis_url: str, tmp_path: Path) -> None:
    """The next supervisor, which continues, dies at the next place."""
    async with open_scene(redis_url, tmp_path, agents_per_worker=3) as scene:
        for workers, place in enumerate(LAUNCHING, 1):
            process = await scene.doomed(place, "supervisor")
            await launched_once(scene, workers - 1)
            scene.arm(place)
            await scene.spawn(3)
            await scene.died(place, process)
        await scene.supervise()
        await launched_once(scene, len(LAUNCHING))


async def launched_once(scene: Scene, workers: int) -> None:
    await scene.running(3 * workers)
    assert scene.events().count("worker.started") == workers
    if workers:
        await scene.at_rest()


async def test_a_reap_whose_supervisor_died_is_continued(scene: Scene) -> None:
    """As above. Each place has agents of its own: one that is lost twice would be isolated."""
    names: list[str] = []
    for losses, place in enumerate(REAPING):
        process = await scene.doomed(place, "supervisor")
        await is_reaped(scene, losses)
        await scene.terminate(*names)
        await scene.running(0)
        names = await scene.spawn(3)
        await scene.running(3)
        scene.arm(place)
        os.kill(await scene.worker_pid(), signal.SIGKILL)
        await scene.died(place, process)
    await scene.supervise()
    await is_reaped(scene, len(REAPING))


async def is_reaped(scene: Scene, losses: int) -> None:
    await scene.recorded("agent.lost", 3 * losses)
    if losses:
        await scene.running(3)
        await scene.at_rest()
    assert scene.events().count("worker.lost") == losses
    assert scene.events().count("agent.lost") == 3 * losses


# ---- projector ---------------------------------------------------------------------------------


@each("projector-")
async def test_a_projector_that_died_is_followed_by_one_that_misses_nothing(
    redis_url: str, tmp_path: Path, place: str
) -> None:
    """And that continues trimming, but only archived events."""
    async with open_scene(redis_url, tmp_path, projecting=False) as scene:
        scene.arm(place)
        process = await scene.doomed(place, "projector")
        await scene.stage.play(scene.pool)
        await scene.died(place, process)
        await scene.stage.play(scene.pool, "x")
        async with scene.stage.projecting(retention=BRIEF, trim_seconds=0.1):
            await scene.stage.settle(POOL)
            await until(lambda: len(scene.events()) == BRIEF.events)
        await scene.judged()


@each("rebuild-")
async def test_a_rebuild_that_died_leaves_correct_views(scene: Scene, place: str) -> None:
    """The serving projector continues, with the old rows or the new ones; a next rebuild works."""
    from projector.rebuild.rebuild import replay

    await scene.stage.play(scene.pool)
    await scene.stage.settle(POOL)
    scene.arm(place)
    process = await scene.doomed(place, "replay")
    await scene.died(place, process)
    await scene.stage.play(scene.pool, "x")
    await scene.stage.settle(POOL)
    await scene.judged()
    await replay(scene.rebuild_options(), lambda _: None)
    await scene.judged()
    left = await scene.stage.sql("SELECT name FROM sqlite_master WHERE name LIKE 'fresh_%'")
    assert left == []


# ---- recovery ----------------------------------------------------------------------------------


@each("recovery-")
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
        scene.arm(place)
        process = await scene.doomed(place, "recover")
        await scene.died(place, process)
        await recover(scene.recovery_options(), lambda _: None)
        scene.stage.log.raise_high_water_mark(POOL, 9, 0)
        async with scene.stage.projecting():
            await scene.judged()
        assert {"log.recovered", "agent.lost"} <= set(scene.events())


def test_every_crash_point_is_tested() -> None:
    assert PLACES.keys() == TESTED
