"""A span for each request, and one for each step that it commits; imported only with `otel` on.

The span of a request continues the client's trace, if it sends a `traceparent`. What the request
writes has its own span as `traceparent`: what workers and the projector do then are its children.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from aiohttp import hdrs, web
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind

from eventstore.ids import new_id
from eventstore.log.log import Log
from eventstore.log.replies import Reply
from eventstore.steps.step import Origin, Step
from eventstore.telemetry.telemetry import (
    Telemetry,
    context_in,
    context_of,
    mark_failed,
    traceparent_of,
)
from gateway.backend.call import Call
from gateway.server.access_log import CLIENT_LEFT
from gateway.server.paths import PROBES
from gateway.wire.answer import Answer
from gateway.wire.trace_context import sent_traceparent

Response: TypeAlias = Answer | web.StreamResponse
Handle: TypeAlias = Callable[[web.Request], Awaitable[Response]]
Record: TypeAlias = Callable[[Call, str, int, float], None]

UNTRACED: Final = frozenset({*PROBES, "/metrics"})
"""Paths that are asked for all the time, by what watches the service."""


class RequestTracing:
    """The spans of one gateway."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry

    def new_log(self, *args: Any, **more: Any) -> Log:
        """Make a log each of whose steps is a span."""
        return _TracedLog(self.telemetry, *args, **more)

    def new_origin(self) -> Origin:
        """What is recorded of the request that is being answered."""
        traceparent = traceparent_of(trace.get_current_span())
        return Origin(
            actor="http",
            correlation_id=new_id(),
            traceparent=traceparent,
            traced=bool(traceparent),
        )

    def around(self, handle: Handle) -> Handle:
        """Answer each request in a span that is a child of the client's."""

        async def traced(request: web.Request) -> Response:
            if request.path in UNTRACED:
                return await handle(request)
            parent = context_of(sent_traceparent(request), request.headers.get("tracestate", ""))
            span = self.telemetry.start(
                request.method if request.method in hdrs.METH_ALL else "HTTP",
                parent,
                {"url.path": request.path, "url.scheme": request.scheme},
                kind=SpanKind.SERVER,
            )
            token = context.attach(context_in(span))
            try:
                return await handle(request)
            finally:
                context.detach(token)
                span.end()

        return traced

    def recording(self, record: Record) -> Record:
        """Record in the span, too, what became of a request."""

        def recorded(call: Call, method: str, status: int, seconds: float) -> None:
            span = trace.get_current_span()
            span.update_name(f"{method} {call.route}".strip())
            span.set_attribute("http.request.method", "_OTHER" if method == "other" else method)
            if call.route.startswith("/"):
                span.set_attribute("http.route", call.route)
            span.set_attribute("muster.correlation_id", call.origin.correlation_id)
            if status == CLIENT_LEFT:
                mark_failed(span, "client_left", "the client did not wait for the answer")
            else:
                span.set_attribute("http.response.status_code", status)
            if status >= 500:
                mark_failed(span, str(status), "")
            record(call, method, status, seconds)

        return recorded


class _TracedLog(Log):
    """Each commit of a step is a span: the time that Redis takes, and of its steps."""

    def __init__(self, telemetry: Telemetry, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._telemetry = telemetry

    async def commit(
        self, step: Step, *, adds_load: bool = False, read_generation: int = 0
    ) -> Reply:
        parent = context.get_current()
        if not trace.get_current_span(parent).get_span_context().is_valid:
            return await super().commit(step, adds_load=adds_load, read_generation=read_generation)
        types = ",".join(event.type for event in step.events)
        attributes = {"muster.pool": step.pool, "muster.events": types, "db.system.name": "redis"}
        span = self._telemetry.start("commit", parent, attributes, kind=SpanKind.CLIENT)
        try:
            reply = await super().commit(step, adds_load=adds_load, read_generation=read_generation)
            span.set_attribute("muster.outcome", reply.outcome.value)
            return reply
        except Exception as error:
            mark_failed(span, type(error).__name__, str(error))
            raise
        finally:
            span.end()
