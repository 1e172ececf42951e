"""What a request works with: the log to write to, the tail to wait on, the views to read.

Reads include what this gateway has acknowledged: a query waits, within bounds, until the views have
reached it (and what the request's `Muster-Position` names); if they do not, the answer says so with
`Muster-Stale`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeVar

from eventstore.connection.calls import UNREACHABLE, translated_errors
from eventstore.errors import LogError, LogUnreachable
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.catalogue import Pool
from eventstore.language.tokens import Token
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.group_commit import STEPS_MAX
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader
from eventstore.metrics.measures import call_observer
from eventstore.names import unknown_name
from eventstore.redis_errors import RedisError
from gateway.access.credentials import Credentials
from gateway.alerts.ledger import Ledger
from gateway.backend.acknowledgements import AcknowledgedCommands
from gateway.backend.certificates import Certificates
from gateway.backend.durability_levels import Capabilities
from gateway.backend.read_state import ReadState
from gateway.backend.redis_health import FailFastClient, RedisHealth
from gateway.following.counters import Observations
from gateway.following.incidents import RecentIncidents
from gateway.following.live_feed import LiveFeed
from gateway.following.subscriptions import Subscriptions
from gateway.following.tail import Tail
from gateway.following.waiters import Waiters
from gateway.options import GatewayOptions
from gateway.wire.problems import Kind, Problem
from projector.queries import views as queries
from projector.queries.sharing import SharedQueries

T = TypeVar("T")
VIEWS_ERRORS: Final = (queries.DatabaseError, queries.DatabaseUnreachable, OSError)
"""What reading the views raises where the database cannot answer; a time-out is an `OSError`."""


class Backend:
    """Shared by all requests of one gateway."""

    def __init__(self, options: GatewayOptions, new_log: Callable[..., Log] = Log) -> None:
        self.options = options
        self.limits = options.limits
        client = FailFastClient(options.redis_url)
        self.redis_health = client.health = RedisHealth(
            options.redis_url,
            self._on_redis_change,
            lambda: bool(self.waiters or self.subscriptions),
        )
        self.log = new_log(client, Keys(options.key_prefix), retention=options.retention)
        self.views = queries.Views(options.database_url)
        self.views_error = "it has not been reached yet"
        """Why the database was never reached; empty once it was."""
        self.views_failures = 0
        """How many reads of the views have failed."""
        self.waiters = Waiters(options.limits.waiters_max)
        self.subscriptions = Subscriptions(options.limits.streams_max, options.limits.stream_queue)
        self.live = LiveFeed()
        """The dashboards that are open."""
        self.observations = Observations()
        self.log.on_answered = call_observer(self.observations.measures, "gateway")
        self.incidents = RecentIncidents()
        self.ledger = Ledger()
        """The alerts that are open, as far as this gateway knows."""
        self.writes_alerts = asyncio.Event()
        self.turns = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, STEPS_MAX))
        """So many spawns of each pool are submitted at once: a flood leaves the loop to others."""
        self.shared_answers = SharedQueries()
        self.acknowledged_commands = AcknowledgedCommands(self.log, self.positions)
        self.capabilities = Capabilities(options, self.log)
        self.certificates = Certificates(options)
        self.started_at = time.time()
        self.event_range = queries.EventRange(self.log.keys, self._read_stream, self._read_archive)
        self._catalogue_reader = Reader(options.redis_url)
        self._catalogue = CatalogueLog(self.log, self._catalogue_reader)
        self._catalogue_lock = asyncio.Lock()
        self.stored_tokens: Mapping[str, Token] = {}
        """Those of the views, until the catalogue was read; set before the views are."""
        now_ms = partial(self.log.now_ms, CATALOGUE)
        self.credentials = Credentials(options.api_token, self.tokens, now_ms)
        self.tail = Tail(
            self.log,
            Reader(options.redis_url),
            self._catalogue,
            (self.waiters.consume, self.subscriptions.consume, self.incidents.consume),
            self.event_range,
            open_catalogue=lambda: self.with_catalogue(CatalogueLog.start),
            on_stopped=self.waiters.release,
            on_removed=self._forget,
            awaited=lambda: bool(self.waiters or self.subscriptions),
            requested=self.waiters.opened,
        )

    def _forget(self, pool: str) -> None:
        self.observations.forget(pool)
        self.incidents.forget(pool)
        self.turns.pop(pool, None)

    async def close(self) -> None:
        """Close all connections, also where one cannot be closed."""
        async with AsyncExitStack() as parts:
            parts.push_async_callback(self.views.stop)
            parts.push_async_callback(self.log.client.aclose)
            parts.push_async_callback(self._catalogue.close)
            parts.push_async_callback(self.capabilities.confirmations.close)
            parts.push_async_callback(self.tail.stop)
            parts.push_async_callback(self.redis_health.close)

    @property
    def disconnected(self) -> bool:
        """Whether Redis may have more than this gateway has observed."""
        return self.redis_health.unreachable or not self.tail.following

    async def _on_redis_change(self, unreachable: bool) -> None:
        """Abandon what waits for an answer that may never come; or follow again at once."""
        if unreachable:
            self.log.client.drop()
            await self._catalogue_reader.abort()
        if unreachable or not self.tail.following:
            await self.tail.retry_now()

    # ---- the catalogue -----------------------------------------------------------------------

    def pools(self) -> dict[str, Pool]:
        """The pools there are, by what was last observed."""
        return self._catalogue.state.live_pools()

    def known_pools(self) -> Iterable[str]:
        """All pools observed so far, also deleted ones whose agents may still be ending."""
        return self._catalogue.state.pools

    async def refresh_known_pools(self) -> set[str]:
        """As `known_pools`, read again. Raises `LogUnreachable`, `LogMissing`."""
        await self.with_catalogue(CatalogueLog.start)
        return set(self.known_pools())

    def live_pool(self, name: str) -> Pool | None:
        """A pool by what was last observed; None if there is none."""
        return self._catalogue.state.live_pool(name)

    async def pool(self, name: str) -> Pool:
        """A pool. If it is not known, the catalogue is read again.

        Raises `Problem`, `LogUnreachable`, and `LogMissing` if there is no catalogue.
        """
        if pool := self.live_pool(name):
            return pool
        await self.with_catalogue(CatalogueLog.start)
        if pool := self.live_pool(name):
            return pool
        raise self.pool_not_found(name)

    def pool_not_found(self, name: str) -> Problem:
        """It names a similar pool, if there is one."""
        detail, nameless = unknown_name("pool", name, self.pools()), unknown_name("pool", name)
        return Problem(Kind.POOL_NOT_FOUND, detail, field="pool_name", nameless=nameless)

    async def with_catalogue(self, call: Callable[[CatalogueLog], Awaitable[T]]) -> T:
        """Use the catalogue's own connection, one at a time. Raises `LogUnreachable`."""
        async with self._catalogue_lock:
            with translated_errors("the catalogue"):
                self.redis_health.require_reachable()
            return await call(self._catalogue)

    def tokens(self) -> Mapping[str, Token]:
        """The tokens there are, by what was last observed."""
        return self._catalogue.state.tokens if self._catalogue.loaded else self.stored_tokens

    # ---- past events -------------------------------------------------------------------------

    async def _read_stream(self, stream: str, first: str, last: str, *, count: int) -> list[Entry]:
        try:
            entries: list[Entry] = await self.log.client.execute_command(
                "XRANGE", stream, first, last, "COUNT", count
            )
        except (*UNREACHABLE, RedisError) as error:
            raise LogUnreachable(f"{stream} cannot be read: {error}") from error
        return entries

    async def _read_archive(
        self, pool: str, stream_id: str, until: str, count: int
    ) -> Sequence[queries.EventRow]:
        try:
            async with self.read_views() as views:
                return await views.archived(pool, stream_id, until, count)
        except Problem as error:
            raise LogUnreachable(f"the archive cannot be read: {error}") from error

    # ---- the views ---------------------------------------------------------------------------

    def read_history(self) -> AbstractAsyncContextManager[queries.Views]:
        """The views, for a query of historical state: it may take longer, and bounds itself."""
        return self.read_views(self.limits.catch_up_seconds * 2 + queries.HISTORY_SECONDS * 2)

    @asynccontextmanager
    async def read_views(
        self, timeout_seconds: float | None = None
    ) -> AsyncIterator[queries.Views]:
        """The views, for a bounded time. Raises `Problem` if they cannot be read."""
        if self.views_error:
            raise self._views_problem(self.views_error)
        try:
            async with asyncio.timeout(timeout_seconds or self.limits.query_seconds):
                yield self.views
        except VIEWS_ERRORS as error:
            self.views_failures += 1
            raise self._views_problem(queries.reason(error)) from error

    def _views_problem(self, reason: str) -> Problem:
        detail = f"{self.views.name} cannot be read: {reason}"
        return Problem(Kind.VIEWS_UNAVAILABLE, detail)

    async def positions(self) -> dict[str, queries.Position]:
        """How far the views are. The logs must have that too, so it raises the high-water marks.

        Raises `TimeoutError` after `query_seconds`: a connection may be open and never answer.
        """
        async with asyncio.timeout(self.limits.query_seconds):
            positions = await self.views.positions()
        for name, position in positions.items():
            if position.generation:
                self.log.raise_high_water_mark(name, position.generation, position.seq)
        return positions

    async def catch_up(
        self, views: queries.Views, read_state: ReadState, pools: Iterable[str] | None = None
    ) -> None:
        """Wait until the views have what was acknowledged of `pools` (None: of all).

        What the request's position says of other pools matters to no answer about these.
        """
        if pools is None:
            await self._drop_removed(read_state.requested)
            pools = (*read_state.requested, CATALOGUE, *self.known_pools())
        names = list(dict.fromkeys(pools))
        deadline = time.monotonic() + (0.0 if self.disconnected else self.limits.catch_up_seconds)
        positions = await self.positions()
        lost = False
        for name in names:
            position = positions.get(name, queries.Position(name))
            reached, seq = position.seq, self._required_seq(read_state, position)
            remaining_seconds = deadline - time.monotonic()
            may_come = position.status == "ok" and remaining_seconds > 0
            if reached < seq and may_come and await self.is_in_log(name, seq):
                caught_up = await views.wait_for(name, seq, timeout_seconds=remaining_seconds)
                reached = seq if caught_up else reached
            lost = lost or queries.is_lost(position.status)
            read_state.stale |= reached < seq or lost
            if reached:
                read_state.position[name] = reached
        if self.disconnected or read_state.stale:
            read_state.stale = True
            # Nothing more comes of a log that is lost, and since when is not known.
            ages = [self.tail.age_ms(positions[name]) for name in names if name in positions]
            read_state.age_ms = None if lost else max(ages, default=None)

    async def _drop_removed(self, requested: dict[str, int]) -> None:
        """The position in a log that was removed is void: its views are gone, too."""
        if unknown := requested.keys() - {CATALOGUE, *self.known_pools()}:
            with suppress(LogError):
                for pool in unknown - await self.refresh_known_pools():
                    del requested[pool]

    async def is_in_log(self, pool: str, seq: int) -> bool:
        """Whether a log has come so far; True where that cannot be known."""
        if seq <= self.log.high_water_mark(pool)[1]:
            return True
        try:
            return (await self.log.head(pool)).seq >= seq
        except LogError:
            return True

    def _required_seq(self, read_state: ReadState, position: queries.Position) -> int:
        """The seq that views must have; what was acknowledged before a recovery is void."""
        generation, seq = self.log.acknowledged(position.pool)
        superseded = position.generation > generation
        return max(0 if superseded else seq, read_state.requested.get(position.pool, 0))

    def mark_observed(self, read_state: ReadState | None, pool: str, seq: int) -> None:
        """Note an event that an answer includes: what is read later must not be older.

        The tail has raised the high-water mark for it. An event above the mark is of a log that was
        recovered since.
        """
        generation, high_water_seq = self.log.high_water_mark(pool)
        if seq <= high_water_seq:
            self.log.acknowledge(pool, generation, seq)
        if read_state is not None:
            read_state.position[pool] = seq

    def report_position(self, read_state: ReadState, pool: str) -> None:
        """Let the answer say the log's position when its step was acknowledged."""
        read_state.position[pool] = self.log.acknowledged(pool)[1]

    async def require_known_pool(self, name: str) -> None:
        """Raises `Problem` unless there is, or was, such a pool."""
        if name not in self.known_pools():
            await self.pool(name)

    async def explain_empty(self, pool: str | None) -> None:
        """Raises `Problem` if a list is empty because there is, and was, no such pool.

        While the catalogue cannot be read, none is known to be absent.
        """
        if pool is not None:
            with suppress(LogError):
                await self.require_known_pool(pool)
