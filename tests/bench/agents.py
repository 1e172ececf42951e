"""The agents of the benchmarks; copied into the folder of the system that runs them."""

import socket
import time

from muster import Agent, Context


class Returns(Agent):
    """Ends at once, and has nothing of its own but that."""

    async def run(self, context: Context) -> None:
        return


class Starts(Agent):
    """The same, with a `start` of its own."""

    async def start(self, context: Context) -> None:
        return

    async def run(self, context: Context) -> None:
        return


class Reports(Agent):
    """Sends the time that passed since it was asked for to a port of this machine."""

    async def run(self, context: Context) -> None:
        nanoseconds = time.monotonic_ns() - int(context.input["asked_ns"])
        port = int(context.input["port"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.sendto(str(nanoseconds).encode(), ("127.0.0.1", port))
        if context.input.get("stay"):
            await context.stopping.wait()


class Stays(Agent):
    """Runs, idle, until it is terminated."""
