"""A receiver of OTLP over HTTP, as a collector is one; it decodes with the official protobuf."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class ReceivedSpan(Struct, frozen=True):
    """One span, and the attributes of the resource that it is of."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    """Ids of other traces."""
    kind: int
    error: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class ReceivedLine(Struct, frozen=True):
    """One line of a log."""

    body: str
    severity: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Receiver:
    """`url` is that of its base, for `OTEL_EXPORTER_OTLP_ENDPOINT`. `hangs`: it never answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.spans: list[ReceivedSpan] = []
        self.lines: list[ReceivedLine] = []
        self.metrics: dict[tuple[str, str], list[Any]] = {}
        """The newest points of each, by service and name."""
        self.requests = 0
        self._released = threading.Event()
        if not hangs:
            self._released.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests += 1
                receiver._released.wait()
                if self.path == "/v1/traces":
                    receiver.spans += _spans(ExportTraceServiceRequest.FromString(body))
                elif self.path == "/v1/logs":
                    receiver.lines += _lines(ExportLogsServiceRequest.FromString(body))
                elif self.path == "/v1/metrics":
                    receiver.metrics |= _metrics(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """A second call does nothing."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]


def _spans(request: Any) -> Iterator[ReceivedSpan]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield ReceivedSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=tuple(link.trace_id.hex() for link in span.links),
                    kind=span.kind,
                    error=span.status.message if span.status.code == 2 else "",
                    attributes=_attributes(span.attributes),
                    resource=resource,
                )


def _lines(request: Any) -> Iterator[ReceivedLine]:
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield ReceivedLine(
                    body=record.body.string_value,
                    severity=record.severity_text,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    attributes=_attributes(record.attributes),
                    resource=resource,
                )


def _metrics(request: Any) -> dict[tuple[str, str], list[Any]]:
    found = {}
    for resource_metrics in request.resource_metrics:
        service = _attributes(resource_metrics.resource.attributes)["service.name"]
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                found[service, metric.name] = [*data.data_points]
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
