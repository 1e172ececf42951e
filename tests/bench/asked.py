"""Processes that answer each line on their input with one line of JSON."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

ROOT = Path(__file__).parents[2]


class Asked:
    """A process that is asked one thing at a time."""

    def __init__(self, process: "asyncio.subprocess.Process") -> None:
        self._process = process
        self.pid = process.pid

    async def ask(self, line: str) -> Any:
        """Its answer. Raises AssertionError if it has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{line}\n".encode())
        answer = await stdout.readline()
        assert answer, f"process {self.pid} has ended"
        return msgspec.json.decode(answer)

    async def end(self) -> None:
        """By the end of its input; it is killed if it goes on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def asked(
    *command: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    errors: IO[bytes] | None = None,
) -> AsyncIterator[Asked]:
    """A running process; its errors go to that file."""
    process = Asked(
        await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    )
    try:
        yield process
    finally:
        await process.end()


def forks(redis_url: str) -> AbstractAsyncContextManager[Asked]:
    """The process of `bare_fork`, on that Redis."""
    return asked(sys.executable, "-m", "tests.bench.bare_fork", redis_url)
