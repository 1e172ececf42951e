"""The gateway as a part of a process: it listens, follows the log, and stops in order.

It starts without Redis or the database and says so in `/readyz`; both are tried until they answer.
When it stops it first wakes all requests that wait or follow, then finishes what is under way, then
closes.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from eventstore.connection.backoff import Backoff
from eventstore.errors import ConfigurationError
from eventstore.metrics.loop_lag import measure_lag
from eventstore.metrics.measures import Measures
from eventstore.telemetry.requirements import is_exported
from gateway.backend.backend import VIEWS_ERRORS, Backend
from gateway.backend.call import default_headers
from gateway.health import live
from gateway.health.alert_watch import AlertWatch
from gateway.health.metrics import figures
from gateway.options import GatewayOptions
from gateway.server.certificate import Certificate
from gateway.server.routes import application, serve
from gateway.webhooks.endpoints import sender_of
from gateway.wire.connections import connection_factory
from gateway.wire.limiter import ConnectionLimiter, connection_capacity, stop_accepting
from projector.queries.views import reason

if TYPE_CHECKING:
    from gateway.server.tracing import RequestTracing

log = structlog.get_logger("muster.gateway")

TAIL_SECONDS: Final = 2.0
"""How long a start waits for the tail; it goes on without."""
VIEWS_SECONDS: Final = 5.0
"""How long a start waits for the views; it goes on without."""
VIEWS_RETRY_SECONDS: Final = (0.05, 1.0)
RETRY_SECONDS: Final = (1.0, 30.0)


class Gateway:
    """One HTTP server. `url` is known once started."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._backend: Backend | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tracing = _tracing() if options.otel and is_exported("TRACES") else None
        self.url = ""

    async def start(self) -> None:
        """Listen. Raises `ConfigurationError` if address or certificate cannot be used."""
        options = self._options
        certificate = Certificate(options.tls_cert, options.tls_key) if options.tls_cert else None
        tracing = self._tracing
        backend = Backend(options, tracing.new_log) if tracing else Backend(options)
        listening_socket = _listen(self._options.host, self._options.port)
        self._backend = backend
        limits = self._options.limits
        app = application(limits)
        self._runner = web.AppRunner(
            app, handle_signals=False, shutdown_timeout=limits.shutdown_seconds
        )
        await self._runner.setup()
        assert self._runner.server is not None
        serve(self._runner.server, app, backend, tracing)
        lag = backend.observations.measures.histogram("muster_loop_lag_seconds", "gateway")
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "gateway.views": partial(_open_views, backend),
            "gateway.redis_health": backend.redis_health.watch,
            "gateway.lag": partial(measure_lag, lag.observe),
            "gateway.acknowledgements": backend.acknowledged_commands.watch,
            "gateway.durability": backend.capabilities.watch,
            "gateway.live": partial(live.run, backend),
        }
        if certificate is not None:
            parts["gateway.certificate"] = certificate.watch
        self._start_parts(parts)
        await backend.tail.start(timeout_seconds=TAIL_SECONDS)
        await asyncio.wait(self._tasks[:1], timeout=VIEWS_SECONDS)
        context = None if certificate is None else certificate.context
        await self._start_server(self._runner, listening_socket, context)
        # Not earlier: what has not been reached yet is not unreachable.
        self._start_parts(
            {
                "gateway.alerts": AlertWatch(backend).run,
                "gateway.webhooks": sender_of(backend).run,
            }
        )
        self.url = _url(options.host, listening_socket, secure=context is not None)
        log.info("gateway.started", url=self.url)

    @property
    def measures(self) -> Measures:
        """What it has observed itself."""
        return self._backend.observations.measures if self._backend is not None else Measures()

    async def scrape(self) -> Sequence[Measures]:
        """Its figures of now."""
        return await figures(self._backend) if self._backend is not None else ()

    def _start_parts(self, parts: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._tasks += [
            asyncio.create_task(retry_on_error(part, work), name=part)
            for part, work in parts.items()
        ]

    async def _start_server(
        self,
        runner: web.AppRunner,
        listening_socket: socket.socket,
        context: ssl.SSLContext | None,
    ) -> None:
        """Accept connections, each with the bounds of `gateway.wire.connections`."""
        assert runner.server is not None
        limits = self._options.limits
        connections_max, backlog = connection_capacity(limits)
        limiter = ConnectionLimiter(connections_max, default_headers(self._options))
        connect = connection_factory(runner.server, limiter, limits, secure=context is not None)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            connect,
            sock=listening_socket,
            backlog=backlog,
            ssl=context,
            ssl_handshake_timeout=None if context is None else limits.head_seconds,
        )

    async def stop(self) -> None:
        """Answer what is under way, then close. A second call does nothing."""
        backend, self._backend = self._backend, None
        if backend is None:
            return
        if self._server is not None:
            await stop_accepting(self._server)
        backend.waiters.close()
        backend.subscriptions.close()
        backend.live.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await backend.close()
        if self._tracing is not None:
            await self._tracing.telemetry.stop()
        log.info("gateway.stopped")


def _tracing() -> "RequestTracing":
    """Imports OpenTelemetry, and starts a thread of its own."""
    from eventstore.telemetry.telemetry import Telemetry
    from gateway.server.tracing import RequestTracing

    return RequestTracing(Telemetry("gateway"))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening_socket = socket.socket(family, kind, proto)
        listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening_socket.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another"
        ) from None
    return listening_socket


def _url(host: str, listening_socket: socket.socket, *, secure: bool) -> str:
    port = listening_socket.getsockname()[1]
    display_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"http{'s' if secure else ''}://{display_host}:{port}"


async def retry_on_error(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run it until it returns; run it again after an error, which is logged each time."""
    backoff = Backoff(seconds=RETRY_SECONDS, reset_after_seconds=RETRY_SECONDS[1])
    while True:
        try:
            return await work()
        except Exception:
            log.exception("gateway.part_failed", part=name)
        await asyncio.sleep(backoff.next_delay())


async def _open_views(backend: Backend) -> None:
    """Open the views as soon as the database answers; log once that it does not."""
    backoff = Backoff(seconds=VIEWS_RETRY_SECONDS)
    while backend.views_error:
        try:
            await backend.views.start()
            await backend.positions()
            backend.stored_tokens = await backend.views.tokens()  # before anything can be read
            backend.views_error = ""
        except VIEWS_ERRORS as error:
            backend.views_error = reason(error)
            if not backoff.active:
                log.warning("gateway.views_unreachable", error=backend.views_error)
            await asyncio.sleep(backoff.next_delay())
