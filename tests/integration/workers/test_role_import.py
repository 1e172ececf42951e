"""A worker imports its own pool's role only; the import has a limit, and its failure a name."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.workers.hosts import Site
from tests.pools import data, raw_events, types
from tests.waiting import until

THREADED = """
import os, pathlib, threading, time
from workers.api.agent import Agent

with pathlib.Path(__file__).with_suffix(".pids").open("a") as pids:
    print(os.getpid(), file=pids)
threading.Thread(target=threading.Event().wait, daemon=True).start()
if len(pathlib.Path(__file__).with_suffix(".pids").read_text().split()) > 1:
    {after_fork}

class Threaded(Agent):
    pass
"""
ROLE = "threaded_agents:Threaded"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, after_fork: str = "pass") -> None:
    (folder / "threaded_agents.py").write_text(THREADED.format(after_fork=after_fork))


def importers(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "threaded_agents.pids").read_text().split()]


async def test_a_worker_does_not_import_what_other_pools_use(site: Site, folder: Path):
    """Its import starts threads, so it is done after each fork: memory and time per worker."""
    write(folder)
    pool = await site.pool()
    await site.host(more_roles={"threaded": "threaded_agents:Threaded"})
    await site.run(pool)
    [worker_pid] = (await site.workers()).values()
    assert worker_pid not in importers(folder)


async def test_an_import_may_take_longer_than_a_launch(site: Site, folder: Path):
    write(folder, "time.sleep(2.5)")
    pool = await site.pool(launch_seconds=2.0, loop_stall_seconds=1.0)
    await site.host(agent="threaded_agents:Threaded")
    await site.run(pool)
    [worker_pid] = (await site.workers()).values()
    assert importers(folder)[1:] == [worker_pid]
    assert types(site.url).count("worker.requested") == 1
    site.check()


def reasons(site: Site, kind: str) -> list[str]:
    return [data(event)["reason"] for event in raw_events(site.url) if event["type"] == kind]


@pytest.mark.parametrize(
    ("after_fork", "kind", "said"),
    [
        (
            "raise ValueError('no such model')",
            "worker.stopped",
            "import-failed: role 'developer' ({role}): ValueError: no such model",
        ),
        (
            'while not pathlib.Path(__file__).with_name("release").exists(): time.sleep(0.05)',
            "worker.lost",
            "; import-failed: importing role 'developer' ({role}) takes too long; {place} <module>",
        ),
    ],
    ids=["raises", "hangs"],
)
async def test_an_import_that_fails_after_the_fork_is_named_and_is_no_agents_failure(
    site: Site, folder: Path, after_fork: str, kind: str, said: str
):
    write(folder, after_fork)
    pool = await site.pool(lease_seconds=2.0)
    await site.host(agent="threaded_agents:Threaded", import_timeout_seconds=0.5)
    spawned = await pool.spawn()
    await until(lambda: reasons(site, kind), what=kind)
    place = f"stalled in {folder}/threaded_agents.py:9"
    assert reasons(site, kind)[0].endswith(said.format(role=ROLE, place=place))
    agent = await site.log.agent(pool.name, spawned.agent_id)
    assert agent is not None
    assert (agent.status, agent.incarnation, agent.failures) == ("pending", 1, ())
    (folder / "release").touch()  # so that the next worker does not hang when it is to end


async def test_a_role_that_this_host_does_not_know_is_no_agents_failure(site: Site):
    pool = await site.pool()
    supervisor = await site.host()
    supervisor._options.roles.clear()  # as after a change of the file on one host
    launcher = supervisor._processes._launcher
    await launcher.stop()
    launcher._plan.roles.clear()
    spawned = await pool.spawn()
    await until(lambda: reasons(site, "worker.stopped"))
    assert reasons(site, "worker.stopped")[0].startswith("role-not-declared: ")
    agent = await site.log.agent(pool.name, spawned.agent_id)
    assert agent is not None
    assert (agent.status, agent.failures) == ("pending", ())


EXITING = """
import atexit, os, pathlib
from workers.api.agent import Agent

def note(what):
    with pathlib.Path(__file__).with_suffix(".notes").open("a") as notes:
        print(os.getpid(), what, file=notes)

def fail():
    raise RuntimeError("an exit hook fails")

atexit.register(note, "registered at import")
atexit.register(fail)

class Exiting(Agent):
    async def start(self, context):
        atexit.register(note, "registered by an agent")
"""


async def test_exit_hooks_run_when_a_worker_ends_in_good_order(site: Site, folder: Path):
    """They flush what log handlers and tracers have collected."""
    (folder / "exiting_agents.py").write_text(EXITING)
    pool = await site.pool()
    supervisor = await site.host(agent="exiting_agents:Exiting")
    await site.run(pool)
    [worker_pid] = (await site.workers()).values()
    await supervisor.stop()
    notes = (folder / "exiting_agents.notes").read_text().splitlines()
    assert [line for line in notes if line.startswith(str(worker_pid))] == [
        f"{worker_pid} registered by an agent",
        f"{worker_pid} registered at import",
    ]


def test_exit_hooks_have_a_limited_time():
    code = (
        "import atexit, time; from workers.launch import worker_process as w;"
        "w.EXIT_HOOKS_SECONDS = 0.1;"
        "atexit.register(time.sleep, 60); w._run_exit_hooks()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
