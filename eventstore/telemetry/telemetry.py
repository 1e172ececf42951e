"""Spans by OpenTelemetry: imported only where the setting `otel` is on.

Where spans go, how many are sampled and how they are batched is read from the variables `OTEL_…`
of the OpenTelemetry specification. Each part of Muster (a gateway, a projector, a worker) has a
provider of its own, made after the last fork, because it has a thread. Only that thread exports: a
receiver that is slow, or gone, costs spans and delays nothing.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from eventstore.errors import ConfigurationError
from eventstore.ids import new_id
from eventstore.telemetry.exporter import QuietExporter, shut_down
from eventstore.telemetry.resource import resource_of
from eventstore.version import __version__

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Telemetry:
    """The spans of one part of Muster. To be made in the process that it is used in.

    Raises `ConfigurationError` for values of `OTEL_…` that cannot be used.
    """

    def __init__(self, service: str, instance_id: str = "", more: Mapping[str, str] = {}) -> None:
        """`more`: attributes of its resource."""
        resource = resource_of(service, instance_id or new_id(), more)
        try:
            self.provider = TracerProvider(
                resource=resource, id_generator=cast("Any", _Ids()), shutdown_on_exit=False
            )
            self._exporter = QuietExporter(OTLPSpanExporter(), "spans")
            self.provider.add_span_processor(BatchSpanProcessor(cast("Any", self._exporter)))
        except ValueError as error:
            raise ConfigurationError(f"a variable OTEL_…: {error}") from error
        self._tracer = self.provider.get_tracer("muster", __version__)

    def start(
        self,
        name: str,
        parent: Context,
        attributes: Mapping[str, str | int],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: tuple[str, ...] = (),
        since_ns: int | None = None,
    ) -> Span:
        """A span, to be ended by the caller. `since_ns`: when it began, in ns since 1970.

        `links`: other traces, as `traceparent`.
        """
        linked = [Link(trace.get_current_span(context_of(it)).get_span_context()) for it in links]
        span: Span = self._tracer.start_span(
            name, parent, kind, attributes, linked, start_time=since_ns
        )
        return span

    async def stop(self) -> None:
        """Export what is left, for a bounded time. A second call does nothing."""
        await shut_down(self.provider, self._exporter)


def context_of(traceparent: str, tracestate: str = "") -> Context:
    """The context of W3C headers; an empty one if they are empty or wrong."""
    headers = {"traceparent": traceparent, "tracestate": tracestate}
    context: Context = _PROPAGATOR.extract(headers, Context())
    return context


def context_in(span: Span) -> Context:
    """The context in which a span is the current one."""
    context: Context = trace.set_span_in_context(span, Context())
    return context


def traceparent_of(span: Span) -> str:
    """The W3C header that names a span as parent; empty if it is none."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def is_sampled(traceparent: str) -> bool:
    """Whether the spans of this trace are exported, as whoever began it has decided."""
    return traceparent[-1:] in frozenset("13579bdf")


def mark_failed(span: Span, kind: str, message: str) -> None:
    """What the span is about went wrong."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


class _Ids:
    """From the system: an agent may seed `random`, which a whole worker shares."""

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or 1

    def generate_trace_id(self) -> int:
        return secrets.randbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True
