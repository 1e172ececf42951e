"""`python -m tests.outside`: see `.ci/outside`, which brings schemathesis along."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.e2e.system import System
from tests.outside import connections, document


def main() -> int:
    """Exit code 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.outside")
    parser.add_argument("--schemathesis", required=True, metavar="PROGRAM")
    parser.add_argument("--seconds", type=int, default=20, help="how long to ask (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    return asyncio.run(_all(parser.parse_args()))


async def _all(args: argparse.Namespace) -> int:
    print(f"seed {args.seed}", flush=True)
    results: dict[str, bool] = {}
    async with _system() as system:
        results["connections"] = await connections.withstands(system)
        results["its log"] = _quiet(system)
    async with _system({"MUSTER_API_TOKEN": document.TOKEN}) as system:
        results["document"] = await document.conforms(  # it also deletes what it can
            system, args.schemathesis, args.seconds, args.seed
        )
        results["log"] = _quiet(system)
    for name, held in results.items():
        print(f"{name:<10} {'ok' if held else 'FAILED'}")
    return 0 if all(results.values()) else 1


@asynccontextmanager
async def _system(env: Mapping[str, str] | None = None) -> AsyncIterator[System]:
    with tempfile.TemporaryDirectory(prefix="muster-outside-") as folder:
        async with System(Path(folder), env=env) as system:
            yield system


def _quiet(system: System) -> bool:
    """Whether no process met a defect of its own while hostile clients were at work."""
    files = list((system.data / "logs").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    bad = [line for line in lines if '"level": "error"' in line or "Traceback" in line]
    print("\n".join(bad[:20]))
    return bool(files) and not bad


if __name__ == "__main__":
    sys.exit(main())
