"""A TCP proxy between a process and a server, in which the network can be made bad.

One `Link` is placed before one server for one process. Its weather says what happens to bytes
that pass through: nothing, a delay, a stall (bytes wait and arrive late, as they do after a
partition), a cut in the middle of a reply, or no connection at all. What was read from one side
before it closed is still delivered to the other, as a network would. A silenced connection stays
open and delivers nothing any more, not even its end, as when a firewall has forgotten it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

from msgspec import Struct

from gateway.wire.limiter import stop_accepting

CHUNK = 65536


class Weather(Struct, frozen=True, kw_only=True):
    """What a link does to what passes. Seconds are added to every chunk of bytes."""

    request_delay_seconds: float = 0.0
    reply_delay_seconds: float = 0.0
    requests_stall: bool = False
    replies_stall: bool = False
    cut_share: float = 0.0
    """This share of the replies is cut in the middle, and the connection with it."""


FAIR = Weather()


class Link:
    """Listens on a port of its own of 127.0.0.1 and forwards to `target`, a port there."""

    def __init__(self, name: str, target: int, random: Random) -> None:
        self.name = name
        self.target = target
        self.port = 0
        self.cuts = 0
        """How many connections were cut on purpose."""
        self._random = random
        self._weather = FAIR
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        """To the process, one a connection."""
        self._silent: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. After `refuse` on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything and listen no more. A second call does nothing."""
        await self.refuse()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, weather: Weather) -> None:
        """Change the weather, also for existing connections."""
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def clear(self) -> None:
        self.set(FAIR)

    def cut(self, share: float = 1.0) -> int:
        """Break off this share of the connections; returns how many."""
        chosen = [writer for writer in self._writers if self._random.random() < share]
        for writer in chosen:
            writer.transport.abort()
        self.cuts += len(chosen)
        return len(chosen)

    def silence(self) -> int:
        """Let no existing connection deliver anything any more; returns how many there are."""
        self._silent |= self._writers
        return len(self._writers)

    async def refuse(self) -> None:
        """Refuse new connections and cut existing ones."""
        server, self._server = self._server, None
        if server is not None:
            await stop_accepting(server)
        self.cut()

    # ---- one connection ------------------------------------------------------------------------

    async def _accept(self, client: asyncio.StreamReader, reply: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(reply)
        try:
            await self._connect(client, reply)
        except (OSError, asyncio.CancelledError):
            pass  # of no interest: both sides see that it is closed
        finally:
            self._writers.discard(reply)
            self._silent.discard(reply)
            self._tasks.discard(task)
            reply.transport.abort()

    async def _connect(self, client: asyncio.StreamReader, reply: asyncio.StreamWriter) -> None:
        server, request = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            await asyncio.gather(
                self._pump(client, request, self._delay_request, reply),
                self._pump(server, reply, self._delay_reply, reply),
            )
        finally:
            request.transport.abort()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        hold: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]],
        reply: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(CHUNK):
                if reply in self._silent:
                    continue
                await hold(chunk, sink)
                sink.write(chunk)
                await sink.drain()
        if reply not in self._silent:
            sink.close()  # also by a side that broke off; what was written before is still sent

    async def _delay_request(self, _chunk: bytes, _sink: asyncio.StreamWriter) -> None:
        if self._weather.request_delay_seconds:
            await asyncio.sleep(self._weather.request_delay_seconds)
        await self._while(lambda: self._weather.requests_stall)

    async def _delay_reply(self, chunk: bytes, sink: asyncio.StreamWriter) -> None:
        if self._weather.reply_delay_seconds:
            await asyncio.sleep(self._weather.reply_delay_seconds)
        await self._while(lambda: self._weather.replies_stall)
        if self._weather.cut_share and self._random.random() < self._weather.cut_share:
            self.cuts += 1
            sink.write(chunk[: self._random.randrange(len(chunk))])
            with contextlib.suppress(ConnectionError):
                await sink.drain()
            sink.transport.abort()
            raise ConnectionAbortedError

    async def _while(self, bad: Callable[[], bool]) -> None:
        while bad():
            await self._changed.wait()
