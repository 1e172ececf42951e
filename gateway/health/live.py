"""The live feed of dashboards: when pictures are read, and the stream that sends them.

A picture is read at most twice a second, only while a dashboard is open, and only if something has
happened in the log since; else every few seconds, because heartbeats are not events and so that a
reader sees that the gateway is there. Where reading takes long, pictures come less often, so that
it takes a tenth of the time.
"""

import time
from typing import Final, cast

from aiohttp import web
from aiohttp.http import StreamWriter
from msgspec import Struct

from eventstore.ticks import set_within
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.following.live_feed import Client, until_closed
from gateway.health.live_picture import PictureReader, Proof, of_audience
from gateway.wire.session_cookie import sent_credentials

INTERVAL_SECONDS: Final = 0.5
CALM_SECONDS: Final = 2.5
"""Between pictures while nothing happens."""
SHARE: Final = 10
"""Reading a picture takes one part in so many of the time."""
CHECK_SECONDS: Final = 1.0
"""A token that was revoked ends its stream within this."""
HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


class LiveMessage(Struct, frozen=True):
    """The data of an event: of `picture` all sections with their entries by name; of `patch` those
    entries that are new or differ, null for those that are gone.

    `pools`, `workers`, `agents` are what lives, `hour` the last sixty minutes of each pool,
    `alerts` those that are open; `names` has the columns of agents and workers, which are lists.
    """

    proof: Proof
    sections: dict[str, dict[str, object]] = {}


async def live(call: Call) -> web.StreamResponse:
    """What a dashboard shows, as server-sent events: a picture, then what changed in it."""
    backend, request = call.backend, call.request
    header, grant = sent_credentials(request), call.grant
    response = web.StreamResponse(headers=HEADERS)
    backend.live.require_capacity()
    await call.start_stream(response)
    transport = request.transport
    if transport is None:  # the client has left
        return response

    def valid() -> bool:
        return backend.credentials.grant_of(header) == grant

    client = Client(cast("StreamWriter", request.writer), transport, valid)
    audience = None if call.own_pools is None else tuple(call.own_pools)
    with backend.live.subscribe(audience, client):
        await until_closed(client, CHECK_SECONDS)
    return response


async def run(backend: Backend) -> None:
    """Publish pictures while someone is connected, until cancelled."""
    feed = backend.live
    while True:
        await feed.wanted.wait()
        await Publisher(backend).run()


class Publisher:
    """Publishes from the first client that comes to the last one that leaves."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._feed = backend.live
        self._reader = PictureReader(backend)
        self._published_at = 0.0
        self._seen: object = None

    async def run(self) -> None:
        try:
            while self._feed.wanted.is_set():
                started_at = time.monotonic()
                if self._is_due(started_at):
                    await self._publish()
                    self._published_at = started_at
                took = time.monotonic() - started_at
                rest = max(INTERVAL_SECONDS - took, took * (SHARE - 1))
                await self._rest(min(rest, CALM_SECONDS))
        finally:
            self._reader.close()

    def _is_due(self, now: float) -> bool:
        known = self._known()
        changed, self._seen = known != self._seen, known
        return changed or self._reader.behind or now - self._published_at > CALM_SECONDS

    def _known(self) -> object:
        """Differs as soon as something has happened."""
        backend = self._backend
        heads = [(pool, head.seq) for pool, head in backend.tail.heads.items()]
        return heads, backend.disconnected, backend.views_error

    async def _publish(self) -> None:
        sections, proof = await self._reader.read()
        for audience in self._feed.audiences:
            await self._feed.publish(audience, of_audience(sections, audience), proof)

    async def _rest(self, seconds: float) -> None:
        """Those who come meanwhile get the picture that there is."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0 and self._feed.wanted.is_set():
            await set_within(self._feed.arrived, remaining)
            if self._feed.arrived.is_set() and not await self._feed.welcome():
                self._published_at = 0.0  # someone may see what was not read yet
                return
