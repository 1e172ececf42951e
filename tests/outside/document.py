"""The gateway against its own document, asked by schemathesis.

Valid and invalid requests, made from `/openapi.json`, to every call of it: no answer is a 500, each
has a documented status, type and shape, and a method that is not described is a 405 that names
those that are. Two things are left out: the streams of events and of pictures, which do not end and
have tests of their own; and that every request that fits the document is accepted, which it cannot
promise: a role must be declared, a cursor be one that the service gave. It is asked with a token:
the first token that a call creates closes a service that has none.
"""

import asyncio
import tempfile
from pathlib import Path

from tests.e2e.system import System

PHASES = "examples,coverage,fuzzing"
CALL_SECONDS = 10
GRACE_SECONDS = 120
TOKEN = "of-the-service"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
NOT_ASKED = 3
"""The streams; and schemathesis leaves out the document that it reads."""


async def conforms(system: System, program: str, seconds: int, seed: int) -> bool:
    """Run schemathesis for a while, against a service with `TOKEN`; whether it found nothing."""
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            program, "--config-file", str(_checks(Path(folder))),
            "run", f"{system.url}/openapi.json",
            "--exclude-path", "/api/v1/events",
            "--exclude-path", "/api/v1/agents/monitor/live",
            "--exclude-checks", "positive_data_acceptance",
            "--phases", PHASES,
            "--max-examples", "40",
            "--max-time", str(seconds),
            "--request-timeout", str(CALL_SECONDS),
            "--header", "Prefer: wait=0",
            "--header", f"Authorization: {AUTHORIZATION['Authorization']}",
            "--seed", str(seed),
            "--continue-on-failure",
            "--no-color",
            cwd=Path(folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), seconds + GRACE_SECONDS)
    text = said.decode()
    tested = text.partition("API Operations:")[2].partition("Test Phases:")[0]
    print(text if process.returncode else f"{' '.join(tested.split())}; nothing was found")
    operations = len(await described(system)) - NOT_ASKED
    return process.returncode == 0 and f"Tested: {operations}" in tested


def _checks(folder: Path) -> Path:
    """What counts as refused: 4xx of any kind, an address that is too long (431) among them."""
    file = folder / "schemathesis.toml"
    file.write_text('[checks.negative_data_rejection]\nexpected-statuses = ["4xx", 503]\n')
    return file


async def described(system: System) -> list[str]:
    """Every call of the document."""
    _, document = await system.call("GET", "/openapi.json", headers=AUTHORIZATION)
    return [f"{method} {path}" for path, calls in document["paths"].items() for method in calls]
