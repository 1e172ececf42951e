"""Server-sent events: the log as a client sees it, from any position, resumed exactly.

An event's id is an opaque cursor: the last stream id of every log that the client follows. A
client that reconnects with it in `Last-Event-ID` first receives what it missed, from the streams
and, where they were trimmed, from the archive, and then the live feed, without a gap or a
repetition between them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web

from eventstore.errors import Halted, LogError, LogMissing, LogUnreachable, RolledBack
from eventstore.log.reader import Entry
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.following.cursor import Cursor
from gateway.following.subscriptions import EncodedEvent, Subscription, encode_event, well_formed
from gateway.resources.own_events import OwnEvents
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import EventQuery
from gateway.wire.session_cookie import sent_credentials
from projector.queries.views import ArchivePruned, id_order

PAGE_SIZE = 64
FIRST_PAGE_SIZE = 4
PAGE_BYTES = 256 * 1024
"""Events in memory for a client that catches up: so many at most, fewer where they are long."""
CHUNK_BYTES = 64 * 1024
"""Bytes after which what is to be sent is written, and waits for the client to read it."""
WRITE_SECONDS = 30.0
RETRY_MS = 2_000
HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


async def follow(call: Call, query: EventQuery) -> web.StreamResponse:
    """Follow the log as server-sent events."""
    backend = call.backend
    header: str = call.request.headers.get("Last-Event-ID", "")
    after, field = (header, "Last-Event-ID") if header else (query.after or "", "after")
    pools = query.pool or call.grant.logs or []
    cursor = await _start_cursor(backend, pools, after, field)
    with backend.subscriptions.subscribe() as subscription:
        response = web.StreamResponse(headers=HEADERS)
        await call.start_stream(response)
        try:
            await Stream(call, response, query, pools, cursor).run(subscription)
        except (TimeoutError, ConnectionError):
            if call.request.transport is not None:
                call.request.transport.abort()
    return response


async def _start_cursor(backend: Backend, pools: Sequence[str], after: str, field: str) -> Cursor:
    """Where to start: now, at the first event (`0`), or after a cursor.

    A pool that does not exist yet is followed from its first event; one that was removed is not.
    """
    latest = backend.tail.positions
    if not latest:
        raise LogUnreachable("Redis has not been reached yet")
    start = dict.fromkeys(latest, "0-0") if after else dict(latest)
    if after not in {"", "0"}:
        positions = Cursor.parse(after, field).positions
        for pool in latest.keys() - positions:  # of a name that was removed, only what came since
            start[pool] = (await backend.log.retired_at(pool))[0]
        start |= positions
        await _require_archived(backend, pools, positions, field)
    if pools:
        return Cursor({pool: start.get(pool, "0-0") for pool in pools})
    if unknown := start.keys() - latest:
        with suppress(LogError):
            for pool in unknown - await backend.refresh_known_pools():
                del start[pool]
    return Cursor(start)


async def _require_archived(
    backend: Backend, pools: Sequence[str], positions: Mapping[str, str], field: str
) -> None:
    """Raises `Problem` where events after a position of the client were pruned.

    Where the views cannot be read, it is noticed when the archive is needed.
    """
    try:
        async with backend.read_views() as views:
            starts = await views.archive_starts()
    except Problem:
        return
    for start in starts.values():
        at = positions.get(start.pool, "0")
        followed = not pools or start.pool in pools
        if followed and (0, 0) < id_order(at) < id_order(start.stream_id):
            raise Problem(Kind.ARCHIVE_PRUNED, str(ArchivePruned(start)), field=field)


class _NotValid(Exception):
    """The client may not read on."""


class Stream:
    """One client's connection; of the pools, subjects and types an empty set means all."""

    def __init__(
        self,
        call: Call,
        response: web.StreamResponse,
        query: EventQuery,
        pools: Sequence[str],
        cursor: Cursor,
    ) -> None:
        self._call = call
        self._backend = backend = call.backend
        self._own = OwnEvents(backend, call.grant)
        self._response = response
        self._pools = frozenset(pools)
        self._subjects = frozenset(query.agent)
        self._types = frozenset(query.type)
        self._cursor = cursor
        self._heartbeat_seconds = backend.limits.stream_heartbeat_seconds
        self._written_at = 0.0
        self._page_size = FIRST_PAGE_SIZE
        self._incomplete_pools: set[str] = set()
        """Pools whose log is lost, with events that the feed had and this client had not."""

    async def run(self, subscription: Subscription) -> None:
        """Send until the client disconnects, falls behind, or the gateway stops."""
        await self._write(f"retry: {RETRY_MS}\nid: {self._cursor}\n\n".encode())
        try:
            await self._catch_up()
            while not subscription.closed:
                events = await subscription.next(self._heartbeat_seconds)
                if self._incomplete_pools and (
                    not events or any(e.pool in self._incomplete_pools for e in events)
                ):
                    await self._catch_up()
                if events:
                    await self._send(events)
                elif not subscription.closed:
                    self._require_valid()
                    await self._send_comment("waiting")
        except LogUnreachable:
            await self._send_comment("Redis, or the archive, does not answer; reconnect")
            return
        except _NotValid:
            await self._send_comment("the token is not valid any more")
            return
        except ArchivePruned as error:
            await self._send_comment(f"{error}; begin again with after=0")
            return
        await self._send_comment(
            "too slow; reconnect" if subscription.overflowed else "the gateway stops; reconnect"
        )

    def _follows(self, pool: str) -> bool:
        return not self._pools or pool in self._pools

    async def _catch_up(self) -> None:
        """Send what there is up to the feed's position when this client subscribed."""
        self._incomplete_pools.clear()
        target = dict(self._backend.tail.positions)
        for pool, end in target.items():
            if self._follows(pool) and not self._cursor.covers(pool, end):
                async for entries in self._pages(pool, end):
                    await self._send([encode_event(pool, e) for e in entries if well_formed(e)])
                    self._cursor.advance(pool, entries[-1][0].decode())
                    if time.monotonic() - self._written_at > self._heartbeat_seconds:
                        await self._send_comment("catching up")

    async def _pages(self, pool: str, end: str) -> AsyncIterator[list[Entry]]:
        """A log that is not intact may have none: its events come once it is recovered."""
        while not self._cursor.covers(pool, end):
            page = await self._page(pool, end)
            if not page:
                generation = await self._generation(pool)
                page = await self._page(pool, end)
                if not page and not (generation and generation == await self._generation(pool)):
                    self._incomplete_pools.add(pool)
            if not page:
                return
            yield page

    async def _page(self, pool: str, end: str) -> list[Entry]:
        position = self._cursor.positions.get(pool, "0-0")
        count = min(self._page_size, PAGE_SIZE)
        page = await self._backend.event_range.after(pool, position, until=end, count=count)
        size = sum(len(fields[-1]) for _, fields in page)
        self._page_size = count * 2 if size < PAGE_BYTES // 2 else max(count // 2, 1)
        return page

    async def _generation(self, pool: str) -> int:
        """The log's generation, if it is intact; else 0."""
        try:
            return (await self._backend.log.require_intact(pool)).generation
        except (LogMissing, Halted, RolledBack):
            return 0

    def _require_valid(self) -> None:
        """Raises `_NotValid` once the token was revoked or has expired, or one is needed."""
        header = sent_credentials(self._call.request)
        if self._backend.credentials.grant_of(header) != self._call.grant:
            raise _NotValid

    async def _send(self, events: Sequence[EncodedEvent]) -> None:
        own = await self._own.select(events)
        self._require_valid()
        chunk = bytearray()
        for event, is_own in zip(events, own, strict=True):
            pool = event.pool
            sent = self._cursor.covers(pool, event.stream_id)
            if not self._follows(pool) or sent or pool in self._incomplete_pools:
                continue
            self._cursor.advance(pool, event.stream_id)
            if (
                is_own
                and (not self._types or event.type in self._types)
                and (not self._subjects or event.subject in self._subjects)
            ):
                chunk += b"id: %s\n%s\n\n" % (str(self._cursor).encode(), event.lines)
            if len(chunk) > CHUNK_BYTES:
                await self._write(bytes(chunk))
                chunk.clear()
        if chunk:
            await self._write(bytes(chunk))

    async def _send_comment(self, text: str) -> None:
        """For people; with the client's position, whether or not it selected what was there."""
        await self._write(f": {text}\nid: {self._cursor}\n\n".encode())

    async def _write(self, content: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self._response.write(content)
        self._written_at = time.monotonic()
