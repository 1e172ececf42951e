"""A worker's right to act: renewed from a thread of its own, so that a busy loop does not lose it.

Two threads: one renews, one guards. The guard never waits for the network, so it is in time
whatever the other is stuck in. The worker trusts its lease until the *start* of its last successful
renewal plus the lease, less a margin, by a clock that also counts while the machine sleeps. A
supervisor that observes renewals from outside waits a full lease, so it can only come later. After
that, or when the log answers FENCED, the event loop is to cancel all agents; unless it confirms in
time that nothing of them runs, the process is ended at once.

Renewing stops when the event loop has not turned for `loop_stall_seconds`. A loop that has not
turned for a second has no room for agents, which the renewals say (see `loop_watch`). The guard
also watches the owner, the process that must not be outlived.
"""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from msgspec import Struct

from eventstore.connection.backoff import Backoff
from eventstore.connection.calls import UNREACHABLE
from eventstore.connection.thread_client import ThreadClient
from eventstore.errors import Halted, LogMissing
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.script_runner import script
from eventstore.redis_errors import NoScriptError, RedisError
from workers.host.processes import boot_seconds
from workers.host.threads import start_thread
from workers.process.loop_watch import ANSWER_SECONDS, LoopWatch
from workers.process.options import WorkerOptions

EXIT_LEASE_LOST: Final = 75
EXIT_ORPHANED: Final = 76
TICK_SECONDS: Final = 1.0
"""The guard checks at least this often while an agent is busy, or the worker prepares."""
IDLE_TICK_SECONDS: Final = 3.0
"""And this often where none is: it costs as much as all else that an idle worker does."""
ORPHAN_SECONDS: Final = 5.0
"""How long a worker whose owner is gone may take to drain."""
BUSY: Final = b':"busy"'
"""In a heartbeat, once for each agent that is."""
log = structlog.get_logger("muster.lease")


class Hooks(Struct, frozen=True):
    """What the worker does. The first four are called from threads, the rest on the loop."""

    high_water_mark: Callable[[], tuple[int, int]]
    agent_of: Callable[["asyncio.Task[object]"], str]
    """The agent whose task this is, empty if none."""
    busy: Callable[[], bool]
    """Whether any agent is."""
    snapshot: Callable[[float], bytes]
    """Given the loop's lag in seconds, the data of the next heartbeat."""
    renewed: Callable[[list[Any]], None]
    """The script's reply."""
    lost: Callable[[str], None]
    log_unavailable: Callable[[], None]
    """The log is missing, halted or behind: called once per outage."""
    orphaned: Callable[[], None]


class Lease:
    """The lease of one worker; `granted_at`: when the call that granted it started."""

    def __init__(
        self, options: WorkerOptions, epoch: int, hooks: Hooks, *, granted_at: float
    ) -> None:
        self._options = options
        self._config = options.config
        self._config_version = options.config_version
        self._epoch = epoch
        self._hooks = hooks
        self._owner_ended = options.owner.end_check() if options.owner else lambda: False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._granted_at = granted_at
        self._trusted_until = granted_at + _trust_seconds(self._config)
        self._lost_reason = ""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._renew_now = threading.Event()
        self._guard_now = threading.Event()
        self._confirmed = threading.Event()
        self._watch = LoopWatch(
            options.worker_id, hooks.snapshot, hooks.agent_of, self._renew_now.set
        )
        self._loop_given_up = False
        self._backoff = Backoff("renewal", worker_id=options.worker_id)
        self._log_unavailable = False
        self._orphan_since = 0.0
        self._threads: list[threading.Event] = []
        """Of each, what is set at its end."""

    @property
    def expired(self) -> bool:
        """Whether the lease is over by the clock, also before its threads have noticed."""
        return boot_seconds() >= self._trusted_until

    @property
    def heartbeat(self) -> bytes:
        """The data of the last one."""
        return self._watch.snapshot

    async def start(self, *, preparing: str = "") -> None:
        """Renew from now on. `preparing`: what the worker does before it can claim."""
        self._loop = asyncio.get_running_loop()
        self._watch.start(preparing)
        if preparing:  # the log is to know that
            self._renew_now.set()
        self._threads = [start_thread(self._renew_forever), start_thread(self._guard)]

    async def stop(self) -> None:
        """Stop renewing and guarding. A second call does nothing."""
        self._stopped.set()
        self._renew_now.set()
        self._guard_now.set()
        self._confirmed.set()
        for _ in range(200):  # threads cannot be awaited; a second at most
            if all(ended.is_set() for ended in self._threads):
                return
            await asyncio.sleep(0.005)

    def renew_soon(self) -> None:
        """Renew now: something suggests that the lease is gone."""
        self._renew_now.set()

    def reconfigure(self, config: PoolConfig, version: str) -> None:
        """Renew by these settings of the pool from now on."""
        self._config, self._config_version = config, version
        self._renew_now.set()

    def prepare(self, phase: str) -> None:
        """The worker does this before it can claim; empty: it can."""
        self._watch.prepare(phase)

    def confirm(self) -> None:
        """Nothing of any agent runs any more."""
        self._confirmed.set()

    # ---- the thread that renews ----------------------------------------------------------------

    def _renew_forever(self) -> None:
        due_at = self._granted_at + self._config.renew_seconds * random.random()
        # Its registration was the first renewal, and its first claim has the interpreter's lock.
        self._renew_now.wait(max(due_at - boot_seconds(), 0.0))
        client = ThreadClient(self._options.redis_url, timeout_seconds=self._config.renew_seconds)
        with contextlib.closing(client):
            while not self._stopped.is_set():
                self._renew_now.clear()
                self._renew_now.wait(self._renew(client))

    def _renew(self, client: ThreadClient) -> float:
        """One renewal; returns after how many seconds the next is due."""
        config = self._config
        interval = config.renew_seconds * random.uniform(0.9, 1.0)
        if self._loop_hangs():
            return min(interval, 0.5)
        started_at = boot_seconds()
        trusted_until = started_at + _trust_seconds(config)
        with self._lock:  # a shorter lease counts as soon as it may be known, a longer one later
            if trusted_until < self._trusted_until:
                self._trusted_until = trusted_until
                self._guard_now.set()
        try:
            reply = self._evaluate(client, config)
        except (*UNREACHABLE, RedisError) as lost:
            return min(self._backoff.next_delay(lost), interval)
        status = reply[0].decode()
        if status in {"FENCED", "RECOVERED"}:
            self._declare_lost("fenced" if status == "FENCED" else "log-recovered")
        elif status != "OK":  # the log is missing or behind: the lease bounds the wait
            if not self._log_unavailable:
                self._log_unavailable = True
                self._call_on_loop(self._hooks.log_unavailable)
            pool = self._options.pool_name
            error = LogMissing(pool) if status == "MISSING" else Halted(pool, status)
            return min(self._backoff.next_delay(error), interval)
        else:
            self._backoff.reset()
            self._log_unavailable = False
            self._extend(trusted_until)
            self._watch.call(self._hooks.renewed, reply)
        return interval

    def _loop_hangs(self) -> bool:
        """Whether the lease is to lapse, for the loop has not turned for too long.

        One more renewal says where: the reason of the worker's loss has it from there.
        """
        seconds = self._watch.look(ANSWER_SECONDS)
        limit = self._config.loop_stall_seconds
        if self._watch.preparing:
            limit = self._options.import_timeout_seconds
        hangs, known = seconds >= limit, self._loop_given_up
        if hangs and not known:
            with contextlib.suppress(Exception):  # whatever logging does, this thread is needed
                self._watch.report_hang(seconds)
        self._loop_given_up = hangs
        return hangs and known

    def _evaluate(self, client: ThreadClient, config: PoolConfig) -> list[Any]:
        source, options, keys = script("renew"), self._options, Keys(self._options.key_prefix)
        arguments = (
            2,
            keys.pool(options.pool_name, "meta"),
            keys.pool(options.pool_name, "events"),
            *self._hooks.high_water_mark(),
            options.worker_id,
            self._epoch,
            new_id(),
            self._watch.snapshot,
            options.retention.heartbeats_ms,
            self._watch.stalled_in,
            f"{config.lease_seconds:g}",
            self._config_version,
            self._watch.snapshot.count(BUSY),
        )
        try:
            reply: list[Any] = client.call("EVALSHA", source.digest, *arguments)
        except NoScriptError:
            reply = client.call("EVAL", source.text, *arguments)
        return reply

    def _extend(self, trusted_until: float) -> None:
        with self._lock:
            if boot_seconds() < self._trusted_until:  # a lapsed lease does not come back
                self._trusted_until = max(self._trusted_until, trusted_until)

    # ---- the thread that guards ----------------------------------------------------------------

    def _guard(self) -> None:
        while not self._stopped.is_set():
            remaining = self._trusted_until - boot_seconds()
            if remaining <= 0:
                self._declare_lost("lease-expired")
                return
            tick_seconds = TICK_SECONDS
            with contextlib.suppress(Exception):  # as above; agents come and go meanwhile
                if not (self._watch.preparing or self._watch.stalled_in or self._hooks.busy()):
                    tick_seconds = IDLE_TICK_SECONDS
            pause = min(remaining, tick_seconds)
            self._guard_now.wait(pause)
            self._guard_now.clear()
            with contextlib.suppress(Exception):  # as above
                self._watch.observe(pause)
            self._watch_owner()

    def _watch_owner(self) -> None:
        if self._stopped.is_set() or not self._owner_ended():
            return
        if not self._orphan_since:
            self._orphan_since = boot_seconds()
            self._call_on_loop(self._hooks.orphaned)
        elif boot_seconds() - self._orphan_since > ORPHAN_SECONDS and self._options.exits:
            os._exit(EXIT_ORPHANED)

    def _declare_lost(self, reason: str) -> None:
        """Notify the loop; end the process unless it confirms in time."""
        with self._lock:
            if self._lost_reason or self._stopped.is_set():
                return
            self._lost_reason = reason
        self._call_on_loop(self._hooks.lost, reason)
        if not self._confirmed.wait(_margin_seconds(self._config) / 2) and self._options.exits:
            os._exit(EXIT_LEASE_LOST)
        self._stopped.set()
        self._renew_now.set()

    def _call_on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs any more
            self._loop.call_soon_threadsafe(function, *arguments)


def _margin_seconds(config: PoolConfig) -> float:
    """Taken off the lease: half for the loop to confirm, half for a thread that comes late."""
    return min(config.lease_seconds * 0.2, 2.0)


def _trust_seconds(config: PoolConfig) -> float:
    return config.lease_seconds - _margin_seconds(config)
