"""Starts that are refused: one clear message, an exit code, and nothing left running."""

import socket
from pathlib import Path

from tests.conftest import MakeServer
from tests.e2e.conftest import CONFIG
from tests.e2e.refused import one_line, refused


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
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


def test_a_broken_configuration(project: Path) -> None:
    """What is said of each mistake, tests of the settings check."""
    config = CONFIG.replace("lease_seconds = 10", "lease_seconds = 'long'")
    said = one_line(refused(project, config=config))
    assert "muster.toml: [pools.developer_pool] lease_seconds: Expected `float`" in said
