"""Whoever starts everything at once starts in any order: what needs Redis waits for it."""

import asyncio
import subprocess
from functools import partial
from pathlib import Path

import pytest

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.log.log import Log
from tests.conftest import MakeServer
from tests.e2e.conftest import CONFIG
from tests.e2e.refused import left_on, one_line, refused
from tests.e2e.system import MUSTER, System
from tests.process import free_port
from tests.waiting import until

UP = (*MUSTER, "up")


async def test_muster_up_waits_and_says_what_for(project: Path, redis_server: MakeServer) -> None:
    server = redis_server()
    server.stop()
    environment = {"MUSTER_REDIS_URL": server.url}
    async with asyncio.TaskGroup() as group:
        system = System(project, config=CONFIG, env=environment)
        starting = group.create_task(system.start())
        await until(
            lambda: system.output.exists() and "waiting for it" in system.said(), timeout=20
        )
        assert server.url in system.said()
        assert not starting.done()
        server.start()
    try:
        assert (await system.spawn())["status"] == "running"
        assert system.said().count("waiting for it") == 1
        assert "Redis answers" in system.said()
    finally:
        await system.__aexit__()


async def test_a_redis_that_can_write_nothing_is_waited_for(
    tmp_path: Path, redis_server: MakeServer
) -> None:
    """As with a full disk. A supervisor joins as a host, which is a write."""
    server = redis_server()
    log = Log(Client(server.url), Keys())
    await log.create_catalogue()
    await log.client.aclose()
    environment = System(tmp_path, env={"MUSTER_REDIS_URL": server.url}).env
    command = [*MUSTER, "supervisor"]
    said = partial(_out, tmp_path, "supervisor")
    with (
        (tmp_path / "supervisor.out").open("wb") as out,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out) as role,
    ):
        try:
            with server.unwritable():
                await until(lambda: "redis.waiting" in said(), timeout=20)
                assert "MISCONF" in said()
            await until(lambda: "role.ready" in said(), timeout=20)
        finally:
            role.terminate()
            assert await asyncio.to_thread(role.wait, 20) == 0


def _out(folder: Path, role: str) -> str:
    file = folder / f"{role}.out"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    "unreachable", ["MUSTER_REDIS_URL=redis", "MUSTER_DATABASE_URL=postgresql"]
)
def test_waiting_ends_at_once_when_asked(tmp_path: Path, unreachable: str) -> None:
    """With nothing left behind, and as a success: it did what was asked.

    A log is started only where the database shows that none was lost, so that is waited for too.
    """
    variable, _, kind = unreachable.partition("=")
    system = System(tmp_path, env={variable: f"{kind}://127.0.0.1:{free_port()}/0"})
    command = [*UP, "--data-dir", str(system.data)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=system.env, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        while "waiting for it" not in up.stdout.readline():
            assert up.poll() is None
        up.terminate()
        assert up.wait(10) == 0
    assert left_on(system.data) == []


REFUSED = (
    (":wrong@", "refuses this login"),
    ("", "refuses this login"),
    (":right@/99", "DB index"),
)
"""A wrong password, none, and the number of a database that is not there."""


def test_what_no_waiting_would_change_is_refused_at_once(
    tmp_path: Path, redis_server: MakeServer, subtests: pytest.Subtests
) -> None:
    """Without the password in the message."""
    server = redis_server()
    with server.client() as client:
        client.config_set("requirepass", "right")
    for path, wanted in REFUSED:
        with subtests.test(path):
            login, _, number = path.partition("/")
            url = f"redis://{login}127.0.0.1:{server.port}/{number or 0}"
            said = one_line(refused(tmp_path, env={"MUSTER_REDIS_URL": url}))
            assert wanted in said
            assert f"127.0.0.1:{server.port}" in said
            assert ":wrong@" not in said
            assert ":right@" not in said
