"""Runs one part of Muster in a process that dies at a named place (see `places`).

`token` is a file: the process that removes it dies, so that the same part, run again, lives. `part`
is one of `gateway`, `supervisor`, `projector`, `replay`, `recover`; `options` are its own. A part
that serves reports when it has started (a gateway: its address), and ends on SIGTERM.
"""

import asyncio
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any, Final

import structlog

from tests.chaos.places import arm
from tests.forked import fork_zygotes

CHUNK: Final = 1
"""Agents that a reap puts back at a time, so that few make several chunks."""


async def serve(part: Any, report: Connection) -> None:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await part.start()
    try:
        report.send(getattr(part, "url", "") or "started")
        await ending.wait()
    finally:
        await part.stop()


async def at_once(_: object) -> None:
    """No lease has to lapse: the workers of such a scene are played, nothing of them runs."""


async def run(part: str, options: Any, report: Connection) -> None:
    match part:
        case "gateway":
            from gateway.server.listener import Gateway

            await serve(Gateway(options), report)
        case "supervisor":
            from workers.supervisor import reaper
            from workers.supervisor.supervisor import Supervisor

            reaper.CHUNK = CHUNK
            fork_zygotes()
            await serve(Supervisor(options), report)
        case "projector":
            from projector.service.projector import Projector

            await serve(Projector(options), report)
        case "replay":
            from projector.rebuild.rebuild import replay

            await replay(options, lambda _: None)
        case "recover":
            from projector.recovery.recovery import Recovery, recover

            setattr(Recovery, "_wait_for_leases", at_once)  # noqa: B010
            await recover(options, lambda _: None)
        case _:
            raise ValueError(part)


def doomed(report: Connection, place: str, token: str, part: str, options: Any) -> None:
    """What such a process does, from start to end."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    arm(place, token)
    asyncio.run(run(part, options, report))
