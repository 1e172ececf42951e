"""Runs one part of Muster in a process that dies at a named place (see `places`).

    python -m tests.chaos.crashing PLACE TOKEN PART OPTIONS

TOKEN is a file: whoever takes it dies, so that the same command, run again, lives. PART is one of
`gateway`, `supervisor`, `projector`, `replay`, `recover`; OPTIONS are its options as JSON. A part
that serves prints a line when it has started (a gateway's: its address), and ends on SIGTERM.
"""

import asyncio
import signal
import sys
from typing import Any, Final

import msgspec
import structlog

from tests.chaos.places import arm

CHUNK: Final = 1
"""Agents that a reap puts back at a time, so that few make several chunks."""


async def serve(part: Any) -> None:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await part.start()
    try:
        print(getattr(part, "url", "") or "started", flush=True)
        await ending.wait()
    finally:
        await part.stop()


async def at_once(_: object) -> None:
    """No lease has to lapse: the workers of such a scene are played, nothing of them runs."""


async def run(part: str, options: str) -> None:
    match part:
        case "gateway":
            from gateway.options import GatewayOptions
            from gateway.server.listener import Gateway

            await serve(Gateway(msgspec.json.decode(options, type=GatewayOptions)))
        case "supervisor":
            from workers.supervisor import reaper
            from workers.supervisor.options import SupervisorOptions
            from workers.supervisor.supervisor import Supervisor

            reaper.CHUNK = CHUNK
            await serve(Supervisor(msgspec.json.decode(options, type=SupervisorOptions)))
        case "projector":
            from projector.service.options import ProjectorOptions
            from projector.service.projector import Projector

            await serve(Projector(msgspec.json.decode(options, type=ProjectorOptions)))
        case "replay":
            from projector.rebuild.rebuild import RebuildOptions, replay

            await replay(msgspec.json.decode(options, type=RebuildOptions), lambda _: None)
        case "recover":
            from projector.recovery.recovery import Recovery, RecoveryOptions, recover

            setattr(Recovery, "_wait_for_leases", at_once)  # noqa: B010
            await recover(msgspec.json.decode(options, type=RecoveryOptions), lambda _: None)
        case _:
            raise ValueError(part)


if __name__ == "__main__":
    place, token, part, options = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    arm(place, token)
    asyncio.run(run(part, options))
