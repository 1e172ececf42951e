"""Starts that are refused: one clear message, an exit code, and nothing left running."""

import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeServer
from tests.e2e.conftest import CONFIG
from tests.e2e.system import System

REFUSED_SECONDS = 30
UP = (sys.executable, "-P", "-m", "muster", "up")


def refused(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, config: str = ""
) -> str:
    """What `muster up` says when it does not start; it must end by itself, and leave nothing."""
    system = System(folder, *arguments, env=env, config=config)
    done = subprocess.run(
        [*UP, "--data-dir", str(system.data), *system.arguments],
        cwd=folder,
        env=system.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=REFUSED_SECONDS,
        check=False,
    )
    assert done.returncode not in {0, None}
    assert left_on(system.data) == []
    assert done.stderr.count("muster up: ") == 1, done.stderr
    return done.stderr


def left_on(data: Path) -> list[psutil.Process]:
    """Processes that work on a data folder, by their command line or environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(data) in text for text in [*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found


def one_line(said: str) -> str:
    """The message, which is all that was said: no traceback, nothing twice."""
    assert said.strip().count("\n") == 0, said
    return said.strip()


async def test_a_data_folder_in_use(system: System) -> None:
    """The one that runs is named and goes on."""
    assert system.process is not None
    running = {process.pid for process in left_on(system.data)}
    done = system.muster("up", "--data-dir", str(system.data), check=False)
    assert done.returncode == 1
    assert f"in use by `muster up` with pid {system.process.pid}" in one_line(done.stderr)
    assert {process.pid for process in left_on(system.data)} == running
    assert (await system.spawn())["status"] == "running"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = one_line(refused(tmp_path, "--port", str(port)))
    assert f"port {port}" in said
    assert "--port" in said


def test_a_redis_that_evicts(tmp_path: Path, redis_server: MakeServer) -> None:
    server = redis_server(options={"maxmemory-policy": "allkeys-lru"})
    said = one_line(refused(tmp_path, env={"MUSTER_REDIS_URL": server.url}))
    assert "allkeys-lru" in said
    assert "noeviction" in said


def test_an_agent_class_that_cannot_be_imported(project: Path) -> None:
    """Its traceback is shown: that is what its author needs."""
    (project / "acting.py").write_text("import a_module_that_is_not_there\n")
    said = refused(project, config=CONFIG)
    assert "supervisor: agent 'acting:Actor'" in said
    assert said.count("ModuleNotFoundError: No module named 'a_module_that_is_not_there'") == 1


def test_an_address_open_to_others_without_a_token(tmp_path: Path) -> None:
    said = one_line(refused(tmp_path, "--host", "0.0.0.0"))
    assert "MUSTER_API_TOKEN" in said


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("[pools.developer_pool\n", "is not TOML"),
        ("prot = 8000\n", "unknown key 'prot'"),
        (CONFIG.replace("lease_seconds = 10", "lease_seconds = 'long'"), "lease_seconds"),
    ],
    ids=["not TOML", "an unknown key", "a wrong type"],
)
def test_a_broken_configuration(project: Path, config: str, wanted: str) -> None:
    said = one_line(refused(project, config=config))
    assert "muster.toml" in said
    assert wanted in said
