"""The main function of a worker process."""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Final

import structlog
import uvloop

from eventstore.errors import LogError
from workers.api.agent import Agent
from workers.host.processes import start_time
from workers.process.options import WorkerOptions
from workers.process.registration import NotOrdered
from workers.process.worker import Worker

log = structlog.get_logger("muster.worker")


EXIT_NOT_ORDERED: Final = 78
EXIT_UNREACHABLE: Final = 79


def main(options: WorkerOptions, roles: Mapping[str, type[Agent]]) -> int:
    """The body of a worker's process, from the fork on; returns its exit code.

    The caller should end the process with `os._exit`: a thread that an agent left behind must not
    keep it alive.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    serving = loop.create_task(_serve(options, roles))
    while not serving.done():
        try:
            loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt):  # raised by an agent, in a callback of the loop
            log.exception("agent.exit_ignored")
    loop.close()  # and no generators: those left are agents' code, and there is no lease any more
    return serving.result()


async def _serve(options: WorkerOptions, roles: Mapping[str, type[Agent]]) -> int:
    worker = Worker(options, roles, start_time=start_time(os.getpid()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: others decide
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, worker.request_drain, "shut-down")
    try:
        await worker.start()
    except NotOrdered as error:
        log.warning("worker.not_ordered", error=str(error))
        return EXIT_NOT_ORDERED
    except LogError as error:
        log.error("worker.not_started", error=str(error))
        return EXIT_UNREACHABLE
    await worker.wait()
    return worker.exit_code
