"""The embedded server of `muster up`, without roles."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import redis
from msgspec.structs import replace

from eventstore.embedded.server import EmbeddedServer
from muster.settings.loading import load
from muster.up.background import Background
from muster.up.log_server import LogServer

SLOW_LOADING = {"key-load-delay": "500"}
"""Microseconds for each command of the append-only file."""
COMMANDS = 2_500


class Embedding:
    """A log's server, and no roles."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.background = Background()
        settings = replace(load({"data_dir": folder}, {}), redis_url="")
        self.log_server: Any = LogServer(settings, self.background)
        self.server = EmbeddedServer(folder / "redis", **options)
        self.aof = folder / "redis" / "appendonlydir"

    async def start(self) -> None:
        await self.log_server._start_embedded()

    def kill(self) -> int:
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def fill(self) -> None:
        with redis.Redis.from_url(self.server.url) as client, client.pipeline() as pipe:
            for number in range(COMMANDS):
                pipe.set(f"key:{number}", number)
            pipe.execute()

    async def end(self) -> None:
        """At once: a pause that it would otherwise wait for is a minute long."""
        self.background.stopping.set()
        await asyncio.wait_for(asyncio.gather(*self.background._tasks), 10)
