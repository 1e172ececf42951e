"""The fake model of the example, as a process that can be away or slow."""

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp

from tests.process import free_port
from tests.waiting import until

PROGRAM = Path(__file__).parents[2] / "docs/examples/frameworks/fake_model.py"
QUICK_SECONDS = 0.02


class Model:
    """`start` it, let it be away with `stop`. The port stays the same."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.port)])
        await until(self._answers, timeout=20)

    def stop(self) -> None:
        """A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def slow(self, seconds: float) -> None:
        """Let every answer from now on take so long."""
        async with aiohttp.request("POST", f"{self.url}/slow?seconds={seconds}") as response:
            response.raise_for_status()

    async def asked(self) -> int:
        """How many questions came since it was started."""
        async with aiohttp.request("GET", f"{self.url}/asked") as response:
            return int((await response.json())["asked"])

    async def is_asked(self, times: int, *, timeout: float = 60) -> None:
        """Wait until so many more questions came."""
        before = await self.asked()

        async def enough() -> bool:
            return await self.asked() >= before + times

        await until(enough, timeout=timeout)

    async def _answers(self) -> bool:
        try:
            await asyncio.wait_for(self.asked(), 1)
        except (aiohttp.ClientError, TimeoutError):
            return False
        return True
