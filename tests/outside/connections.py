"""Ten thousand connections that say nothing, and some that say too little, on a gateway at work.

Where the limit on open files leaves room for fewer, it is fewer, and that is said; with `CI=true`
it is a failure.
"""

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from tests.e2e.system import System
from tests.waiting import until

CONNECTIONS = 10_000
LEAST = 1_000
"""Fewer say nothing, wherever it is."""
OTHER_FILES = 500
"""Open files of this process, or of the gateway, that are not these connections."""
SLOW = 500
BATCH = 250
SPAWNS = 20
MEMORY_EACH = 64 * 1024
"""Bytes that a connection may cost the gateway."""
GROWTH = 16 * 1024 * 1024
"""Bytes that a second set of connections may need beyond the first."""
OTHERS = 20
"""Connections of other clients, at most."""
AT_ONCE_SECONDS = 2.0

Writers = list[asyncio.StreamWriter]


async def withstands(system: System) -> bool:
    """Whether the gateway goes on serving, and holds no more memory than it should.

    What it needed once it may retain; a second set of connections must not make it grow again.
    """
    hard = _raise_limit()
    count, said = possible(hard, os.environ)
    print(said, end="", flush=True)
    if not count:
        return False
    gateway = system.role("gateway")
    before = gateway.memory_info().rss
    first = await _visit(system, gateway, count)
    after = gateway.memory_info().rss
    second = await _visit(system, gateway, count)
    each, grown = (first.held - before) / count, second.held - first.held
    longest = max(first.seconds, second.seconds)
    print(
        f"{count:,} connections, twice: {each / 1024:.1f} KiB each,"
        f" {(after - before) >> 20} MiB retained, {grown >> 20} MiB more for the second set;"
        f" the longest answer took {longest:.2f} s;"
        f" {first.cut + second.cut} of {2 * SLOW} slow ones were cut off"
    )
    quick = longest < AT_ONCE_SECONDS
    return each < MEMORY_EACH and grown < GROWTH and quick and first.cut == second.cut == SLOW


class Visit(NamedTuple):
    held: int
    """Bytes that the gateway held while all were there."""
    seconds: float
    cut: int


async def _visit(system: System, gateway: psutil.Process, count: int) -> Visit:
    idle = await _gather(system, count - SLOW, b"")
    slow = await _gather(system, SLOW, b"GET /api/v1/agents HTTP/1.1\r\nHost: loc")
    await until(lambda: _connected(gateway) >= count - SLOW)
    held, seconds = gateway.memory_info().rss, await _serves(system)
    with contextlib.suppress(AssertionError):
        await until(lambda: _connected(gateway) <= count - SLOW + OTHERS, timeout=20, interval=0.2)
    cut = min(count + OTHERS - _connected(gateway), SLOW)
    for writer in [*idle, *slow]:
        writer.close()
    await until(lambda: _connected(gateway) <= OTHERS, timeout=30, interval=0.2)
    return Visit(held, max(seconds, await _serves(system)), cut)


def _connected(gateway: psutil.Process) -> int:
    """How many connections the gateway has, ours and its own."""
    return len(gateway.net_connections("inet"))


def _raise_limit() -> int:
    """Let this process open as many files as it may; how many these are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = hard if hard != resource.RLIM_INFINITY else 2 * CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def possible(hard: int, environ: Mapping[str, str]) -> tuple[int, str]:
    """How many connections to open with so many files, 0 if too few, and what to say of that."""
    count = min(CONNECTIONS, hard - OTHER_FILES)
    if count == CONNECTIONS:
        return count, ""
    wanted = CONNECTIONS + OTHER_FILES
    said = (
        f"*** ONLY {max(count, 0):,} OF {CONNECTIONS:,} CONNECTIONS can be opened: the hard limit"
        f" on open files (ulimit -Hn) is {hard:,}, and {wanted:,} are needed.\n"
        f"*** Raise it: `ulimit -n {wanted}` as root in the shell that starts this, `--ulimit"
        f" nofile={wanted}` of docker run,\n"
        f"*** LimitNOFILE={wanted} of a systemd service, or nofile in /etc/security/limits.conf.\n"
    )
    if environ.get("CI") == "true":
        return 0, f"{said}*** With CI=true that is a failure.\n"
    if count < LEAST:
        return 0, f"{said}*** Fewer than {LEAST:,} say nothing: that is a failure.\n"
    return count, said


async def _gather(system: System, count: int, saying: bytes) -> Writers:
    connections: Writers = []
    for first in range(0, count, BATCH):
        some = min(BATCH, count - first)
        connections += await asyncio.gather(*(_connect(system, saying) for _ in range(some)))
    return connections


async def _connect(system: System, saying: bytes) -> asyncio.StreamWriter:
    where = urlsplit(system.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(saying)
    return writer


async def _serves(system: System) -> float:
    """Ask for what users ask for; the longest it took."""
    longest = 0.0
    for _ in range(SPAWNS):
        started = time.monotonic()
        agent = await system.spawn(wait=0)
        await system.agent(agent["agent_id"])
        await system.get("/readyz")
        longest = max(longest, time.monotonic() - started)
    return longest
