"""Exactly one projector is active: a row names it, and each of its transactions proves the lease.

The holder writes through `Lease.write` only, so the proof cannot be forgotten, and raises the row's
`renewal`. A standby watches that number. It takes over when the number has not changed for a whole
lease, or at once where the lease was released, or its holder was a process of this host that ended.
Only the pauses between its polls count, no clock: time in which the standby was itself stopped,
perhaps with its whole host, says nothing about the holder. Taking over raises `term`: the previous
holder's next transaction finds that it is superseded, and writes nothing.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.ids import new_id
from projector.store.database import Database, DatabaseError
from projector.store.tables import run

LEASE_SECONDS: Final = 4.0
WATCH_SECONDS: Final = 0.5
SEIZE_ATTEMPTS: Final = 100

_STATE: Final = "SELECT holder, term, renewal FROM {}leases WHERE name = ?"
_CREATE: Final = "INSERT INTO {}leases (name, holder) VALUES (?, '') ON CONFLICT DO NOTHING"
_RENEW: Final = (
    "UPDATE {}leases SET renewal = renewal + 1 WHERE name = ? AND holder = ? AND term = ?"
)
_RELEASE: Final = (
    "UPDATE {}leases SET holder = '', renewal = renewal + 1 WHERE name = ? AND holder = ?"
)
_ACQUIRE: Final = (
    "UPDATE {}leases SET holder = ?, term = term + 1, renewal = renewal + 1"
    " WHERE name = ? AND term = ? AND renewal = ?"
)

T = TypeVar("T")


class Superseded(Exception):
    """Another process has the lease now: nothing was written."""


class LeaseState(Struct, frozen=True):
    holder: str
    term: int
    renewal: int


class Lease:
    """The right to write one set of tables, under a name."""

    def __init__(
        self, database: Database, name: str = "projector", *, seconds: float = LEASE_SECONDS
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.term = 0
        self._renewed_at = -math.inf
        self.database = database
        self._process = this_process()
        self._holder = f"{self._process}/{new_id()}"

    async def acquire(self, *, timeout_seconds: float = math.inf) -> None:
        """Wait until the lease is free or has lapsed, and acquire it.

        Raises `TimeoutError` where it is still renewed after so many seconds of watching.
        """
        pause = min(WATCH_SECONDS, self.seconds / 4)
        last, unchanged_seconds, watched_seconds = await self._read_state(), 0.0, 0.0
        while not await self._try_acquire(last, unchanged_seconds):
            if watched_seconds >= timeout_seconds:
                raise TimeoutError
            await asyncio.sleep(pause)
            watched_seconds += pause
            current = await self._read_state()
            unchanged_seconds = unchanged_seconds + pause if current == last else 0.0
            last = current

    async def _try_acquire(self, observed: LeaseState, unchanged_seconds: float) -> bool:
        free = (
            not observed.holder or unchanged_seconds >= self.seconds or self._died(observed.holder)
        )
        return free and await self.database.write(lambda c: self._claim(c, observed))

    def _died(self, holder: str) -> bool:
        process = holder.rpartition("/")[0]
        host, _, _ = process.rpartition("/")
        same_host = host == self._process.rpartition("/")[0] and not host.startswith("unknown")
        return same_host and process != self._process and not _is_running(process)

    async def seize(self) -> None:
        """Acquire the lease at once, also from a live holder."""
        for _ in range(SEIZE_ATTEMPTS):  # each fails only where it was renewed in between
            if await self._try_acquire(await self._read_state(), self.seconds):
                return
        raise Superseded(f"the lease {self.name!r} is renewed too fast to be seized")

    async def write(self, work: Callable[[Connection], T], *, also: "Lease | None" = None) -> T:
        """Prove and renew the lease, then run `work`, in one transaction; `also`: another lease.

        Raises `Superseded` where a lease was lost: nothing was written then.
        """

        def fenced(connection: Connection) -> T:
            self._require_held(connection)
            if also is not None:
                also._require_held(connection)
            return work(connection)

        started = time.monotonic()
        result = await self.database.write(fenced)
        self._renewed_at = started
        return result

    @property
    def renewal_due_seconds(self) -> float:
        """In how many seconds to renew it, where no other transaction does; negative: at once."""
        return self._renewed_at + self.seconds / 2 - time.monotonic()

    async def renew(self) -> None:
        """Raises `Superseded`."""
        await self.write(lambda _: None)

    @asynccontextmanager
    async def keep_renewed(self) -> AsyncIterator[None]:
        """Renew it regularly within the block; `write` fails once it is lost."""
        renewing = asyncio.create_task(self._renew_loop(), name=f"lease.{self.name}")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self.seconds / 4)
            with suppress(DatabaseError):  # such as a lock that was held for long
                await self.renew()

    def _require_held(self, connection: Connection) -> None:
        """Raises `Superseded`."""
        if not run(connection, _RENEW, self.name, self._holder, self.term).rowcount:
            raise Superseded(f"the lease {self.name!r} was acquired by another process")

    def release_in(self, connection: Connection) -> None:
        """Let the next process acquire it at once; no effect where it is no longer ours."""
        run(connection, _RELEASE, self.name, self._holder)

    async def release(self) -> None:
        await self.database.write(self.release_in)

    def is_ours(self, connection: Connection) -> bool:
        """Whether this process has it, in a transaction that only reads."""
        row = run(connection, _STATE, self.name).first()
        return row is not None and (row.holder, row.term) == (self._holder, self.term)

    async def is_held(self) -> bool:
        """Whether a process acquired it and has not released it, dead or alive."""
        return bool((await self._read_state()).holder)

    async def _read_state(self) -> LeaseState:
        row = await self.database.read(lambda c: run(c, _STATE, self.name).first())
        return LeaseState(*row) if row else LeaseState("", 0, 0)

    def _claim(self, connection: Connection, observed: LeaseState) -> bool:
        """Acquire it if it has not changed since it was read."""
        run(connection, _CREATE, self.name)
        unchanged = (self.name, observed.term, observed.renewal)
        if not run(connection, _ACQUIRE, self._holder, *unchanged).rowcount:
            return False
        self.term = observed.term + 1
        return True


def this_process() -> str:
    """`boot-pidnamespace/pid-start`: an id that no other process ever has, on any host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        return f"{boot}-{namespace}/{os.getpid()}-{_start_time(os.getpid())}"
    except OSError:
        return f"unknown/{os.getpid()}-0"


def _is_running(process: str) -> bool:
    pid, _, start = process.rpartition("/")[2].partition("-")
    try:
        return str(_start_time(int(pid))) == start
    except (OSError, ValueError):
        return False


def _start_time(pid: int) -> int:
    """In clock ticks since boot: field 22 of proc(5)'s stat, after the name in brackets."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])
