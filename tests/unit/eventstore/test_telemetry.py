"""Exporting spans, as far as it needs no receiver."""

import logging
import random
import sys

import pytest
import structlog
from opentelemetry.sdk.trace.export import SpanExportResult

from eventstore.errors import ConfigurationError
from eventstore.telemetry.exporter import QuietExporter
from eventstore.telemetry.requirements import require_usable
from eventstore.telemetry.telemetry import _Ids, context_of, is_sampled, traceparent_of
from workers.api.untraced import untraced

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Exporter:
    """Fails as that of OpenTelemetry does."""

    def __init__(self) -> None:
        self.result = SpanExportResult.FAILURE

    def export(self, batch: object, /) -> SpanExportResult:
        if self.result is SpanExportResult.FAILURE:
            logging.getLogger(__name__).error("cannot reach it")
        return self.result

    def shutdown(self) -> None: ...


def test_a_receiver_that_is_gone_is_logged_once_and_its_return_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And nothing of what the exporter itself logs, but that of others with the same logger."""
    exporter = Exporter()
    quiet = QuietExporter(exporter, "spans")
    with structlog.testing.capture_logs() as logged:
        quiet.export([])
        quiet.export([])
        assert quiet.failing
        exporter.result = SpanExportResult.SUCCESS
        quiet.export([])
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("telemetry.export_failed", "cannot reach it"),
        ("telemetry.exported", None),
    ]
    assert caplog.messages == []
    exporter.result = SpanExportResult.FAILURE
    exporter.export([])
    assert caplog.messages == ["cannot reach it"]


def test_ids_do_not_depend_on_what_an_agent_seeds() -> None:
    """All agents of a worker share `random`."""
    drawn = set()
    for _ in range(2):
        random.seed(1)
        drawn |= {_Ids().generate_trace_id(), _Ids().generate_span_id()}
    assert len(drawn) == 4


def test_a_traceparent_is_read_as_it_was_written() -> None:
    from opentelemetry import trace

    assert traceparent_of(trace.get_current_span(context_of(TRACEPARENT))) == TRACEPARENT
    assert traceparent_of(trace.get_current_span(context_of(""))) == ""


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True)])
def test_only_sampled_traces_have_spans(flags: str, sampled: bool) -> None:
    assert is_sampled(TRACEPARENT[:-2] + flags) == sampled
    assert not is_sampled("")


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its spans would go to the wrong port, for ever and in silence."""
    require_usable("--otel")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigurationError, match=r"PROTOCOL: expected http/protobuf.*'grpc'"):
        require_usable("--otel")


def test_it_is_said_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"MUSTER_OTEL: .*agent-muster\[otel\]"):
        require_usable("MUSTER_OTEL")


def test_a_tracer_that_does_nothing_has_what_a_tracer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    tracer = untraced()

    @tracer.start_as_current_span("a function")
    def work() -> int:
        return 7

    with tracer.start_as_current_span("work", attributes={"a": 1}) as span:
        span.set_attribute("b", 2)
        assert not span.is_recording()
    tracer.start_span("more").end()
    with pytest.raises(ValueError, match="passes"), tracer.start_as_current_span("fails"):
        raise ValueError("it passes")
    assert work() == 7
