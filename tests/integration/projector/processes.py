"""A projector, and a rebuild, each in a process of its own that a signal hits where a test says."""

import asyncio
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, Final

from muster.__main__ import main
from projector.fold.projection import Projection
from projector.rebuild import rebuild, view_sets
from projector.service.options import ProjectorOptions
from projector.service.projector import Projector
from projector.store import database
from tests.forked import Forked
from tests.integration.projector.stage import Stage

STOPPED_SECONDS: Final = 2.5
"""How long PostgreSQL bears a projector that stops itself within a transaction."""


def projector_process(
    stage: Stage, *, lease_seconds: float = 4.0, stops_itself: bool = False
) -> Forked:
    """It is active until it is ended; or it stops, within the transaction of the event at seq 2."""
    return Forked(_project, stage.redis_url, stage.database_url, lease_seconds, stops_itself)


def _project(
    _: Connection, redis_url: str, database_url: str, lease_seconds: float, stops_itself: bool
) -> None:
    write = Projection.write

    def write_and_stop(self: Projection, connection: Any, pool: Any, rows: Any) -> Any:
        written = write(self, connection, pool, rows)
        if rows[-1].pool and rows[-1].seq == 2:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # before it can commit
        return written

    async def project() -> None:
        options = ProjectorOptions(
            redis_url=redis_url, database_url=database_url, lease_seconds=lease_seconds
        )
        projector = Projector(options)
        await projector.start()
        await projector.wait()

    if stops_itself:
        setattr(Projection, "write", write_and_stop)  # noqa: B010
        idle = database._SET_IDLE_TIMEOUT.replace(
            f"{database.IDLE_SECONDS}s", f"{STOPPED_SECONDS}s"
        )
        setattr(database, "_SET_IDLE_TIMEOUT", idle)  # noqa: B010
    asyncio.run(project())


def struck(stage: Stage, where: str, how: int) -> Forked:
    """`muster replay`, which a signal hits at a stage of the rebuild."""
    return Forked(_rebuild, where, how, stage.redis_url, stage.database_url)


def _rebuild(_: Connection, where: str, how: int, redis_url: str, database_url: str) -> None:
    of: Any = rebuild.Rebuild if hasattr(rebuild.Rebuild, where) else view_sets
    original, calls = getattr(of, where), []

    def strike(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if where == "switch":
            original(*args, **options)  # all is written; nothing is committed
        if len(calls) == (2 if where == "_store" else 1):
            signal.pthread_kill(threading.get_ident(), how)
        return original(*args, **options)

    setattr(of, where, strike)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(main(["replay", "--redis-url", redis_url, "--database-url", database_url]))
