"""`/metrics` of a supervisor or a projector, on a port of its own, next to the part itself.

Imported only where a port is named. It is the server of Prometheus' client, in threads, so that a
host of workers needs no other; the figures are read on the event loop. There is no token: who can
reach the port can read the names of pools and how they are used. On a loopback address a request's
`Host` must be one, too, so that a web page cannot reach it by a name of its own.
"""

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from socketserver import TCPServer
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from eventstore.errors import ConfigurationError
from eventstore.metrics import exposition
from eventstore.metrics.loop_lag import measure_lag
from eventstore.metrics.measures import Measures
from muster.process.part import Part
from muster.settings.settings import LOOPBACK, Settings

log = structlog.get_logger("muster")

TAKEN_SECONDS: Final = 15.0
"""How long a port may be taken: by the process before this one, which is about to end, or by one of
its children."""
TAKEN_PAUSE_SECONDS: Final = 0.2
SCRAPE_SECONDS: Final = 8.0
"""How long the figures may take; Prometheus waits for ten seconds by default."""
CLIENT_SECONDS: Final = 10.0
"""How long a client may take to ask, and to read."""
PATH: Final = "/metrics"


class Metrics(Protocol):
    """What a part has to report."""

    @property
    def measures(self) -> Measures: ...

    async def scrape(self) -> Sequence[Measures]: ...


class MeasuredPart:
    """A part of a process, and its metrics, which are there for as long as it is."""

    def __init__(self, role: str, part: Part, metrics: Metrics, settings: Settings) -> None:
        self._part, self._metrics, self._settings = part, metrics, settings
        self._lag = metrics.measures.histogram("muster_loop_lag_seconds", role)
        self._one_at_a_time = asyncio.Lock()
        self._server: WSGIServer | None = None
        self._measuring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `ConfigurationError` if the port cannot be used, and what the part raises."""
        self._loop = asyncio.get_running_loop()
        self._server = await _listen_when_free(self._settings, self._respond)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        self._measuring = asyncio.create_task(measure_lag(self._lag.observe), name="metrics.lag")
        await self._part.start()

    async def stop(self) -> None:
        """A second call does nothing more."""
        try:
            await self._part.stop()
        finally:
            server, self._server = self._server, None
            if self._measuring is not None:
                self._measuring.cancel()
            if server is not None:
                await asyncio.to_thread(server.shutdown)
                server.server_close()

    def _respond(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """(In a thread.) As WSGI says."""
        loopback = self._settings.metrics_host in LOOPBACK
        if loopback and _name_of(environ.get("HTTP_HOST", "")) not in LOOPBACK:
            return _refuse(start, "421 Misdirected Request", "Host is no name of this machine")
        if environ["PATH_INFO"] != PATH:
            return _refuse(start, "404 Not Found", f"there is only {PATH}")
        asked = asyncio.run_coroutine_threadsafe(self._collect(), self._loop)
        try:
            registry = asked.result(SCRAPE_SECONDS)
        except TimeoutError:
            asked.cancel()
            return _refuse(start, "503 Service Unavailable", "the figures take too long")
        return make_wsgi_app(registry)(environ, start)  # type: ignore[no-any-return]  # untyped

    async def _collect(self) -> CollectorRegistry:
        async with self._one_at_a_time:
            return exposition.collect(*await self._metrics.scrape())


def _name_of(host: str) -> str:
    """Without a port; empty if it is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _listen_when_free(
    settings: Settings, respond: Callable[..., Iterable[bytes]]
) -> WSGIServer:
    """Waits for a port that is taken, up to `TAKEN_SECONDS`. Raises `ConfigurationError`."""
    host, port = settings.metrics_host, settings.metrics_port
    started, waits = time.monotonic(), False
    while True:
        try:
            return _listen(settings, respond)
        except OSError as error:
            waited = time.monotonic() - started
            if error.errno == errno.EADDRINUSE and waited < TAKEN_SECONDS:
                if not waits:
                    log.warning("metrics.port_taken", host=host, port=port, seconds=TAKEN_SECONDS)
                waits = True
                await asyncio.sleep(TAKEN_PAUSE_SECONDS)
                continue
            number = error.errno or 0  # that of a name that is unknown is negative
            reason = os.strerror(number) if number > 0 else error.strerror
            still = f" (also after {TAKEN_SECONDS:g} s)" if waits else ""
            raise ConfigurationError(
                f"{settings.source('metrics_port')}: cannot listen on {host} port {port}: {reason}"
                f"{still}; choose another"
            ) from None


def _listen(settings: Settings, respond: Callable[..., Iterable[bytes]]) -> WSGIServer:
    """Raises `OSError`."""
    host, port = settings.metrics_host, settings.metrics_port
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]

    class Server(ThreadingWSGIServer):
        address_family = family

        def server_bind(self) -> None:
            """Without asking for the name of this host, which may take long."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, port
            self.setup_environ()

    return make_server(host, port, respond, Server, _Handler)


def _refuse(start: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Handler(WSGIRequestHandler):
    """Of one connection. It logs nothing."""

    timeout = CLIENT_SECONDS
    server_version, sys_version = "muster", ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's)
        """Nothing."""
