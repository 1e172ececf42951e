"""Each process loads only what it needs: what it loads, it has for as long as it lives."""

import subprocess
import sys

import pytest

HEAVY = {"redis", "rich", "sqlalchemy", "aiohttp", "aiosqlite", "psycopg", "importlib.metadata",
         "prometheus_client"}  # fmt: skip
LOADED = f"""
import importlib, sys
from eventstore.plain_logging import import_structlog
import_structlog()
importlib.import_module(sys.argv[1])
print(*sorted({HEAVY!r} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("muster.up.up", set()),
        ("workers.supervisor.supervisor", set()),
        ("workers.launch.zygote", set()),
        ("projector.service.projector", {"sqlalchemy", "importlib.metadata"}),
        ("gateway.server.listener", {"sqlalchemy", "importlib.metadata", "aiohttp"}),
    ],
)
def test_a_process_loads_what_its_role_needs(module: str, needed: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, module], check=True, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == needed


def test_what_agents_import_is_there_afterwards() -> None:
    code = "from eventstore.plain_logging import import_structlog\nimport_structlog()\n"
    subprocess.run([sys.executable, "-c", code + "import rich.console"], check=True)
