"""Slots whose claims and starts are spans; imported only with `otel` on.

A first incarnation continues the trace of the request that asked for its agent: its claim is a
child of the request's span, its start a child of the claim. A later one begins a trace of its own,
which names the first as a link: an agent may be started for years. Neither span is open while the
agent runs. What the agent does is in spans of its own, children of that of its start.
"""

import time
from typing import Any

from msgspec.structs import replace
from opentelemetry import context, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind

from eventstore.language.agent_commands import Command, Fail, Release
from eventstore.log.replies import ClaimedAgent
from eventstore.telemetry.telemetry import (
    Telemetry,
    context_in,
    context_of,
    mark_failed,
    traceparent_of,
)
from workers.api.agent import Agent, Context, read_spec
from workers.runtime.agent_run import AgentRun
from workers.runtime.slots import Slots
from workers.runtime.worker_context import WorkerContext


class TracedSlots(Slots):
    """`telemetry`: the worker's."""

    def __init__(self, telemetry: Telemetry, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._telemetry = telemetry
        self._claiming_since_ns = 0

    async def _claim(self, free: int) -> None:
        self._claiming_since_ns = time.time_ns()
        await super()._claim(free)

    def _new_run(self, claimed: ClaimedAgent) -> AgentRun:
        since_ns = self._claiming_since_ns
        return TracedRun(self._telemetry, since_ns, self._worker_context, claimed)


class TracedRun(AgentRun):
    """One incarnation, from the span of its claim on."""

    def __init__(
        self,
        telemetry: Telemetry,
        since_ns: int,
        worker_context: WorkerContext,
        claimed: ClaimedAgent,
    ) -> None:
        super().__init__(worker_context, claimed)
        self._telemetry = telemetry
        self._tracer = telemetry.provider.get_tracer("muster.agents")
        requested, first = read_spec(claimed.spec).traceparent, self.incarnation == 1
        span = telemetry.start(
            f"claim {self.state.role_type}",
            context_of(requested if first else ""),
            self._attributes(),
            kind=SpanKind.CONSUMER,
            links=(requested,) if requested and not first else (),
            since_ns=since_ns,
        )
        span.end()
        self._claimed = context_in(span)

    def _attributes(self) -> dict[str, str | int]:
        state = self.state
        return {
            "muster.pool": state.pool_name,
            "muster.role": state.role_type,
            "muster.project": state.project_id,
            "muster.agent.id": self.agent_id,
            "muster.agent.incarnation": self.incarnation,
        }

    async def _start(self) -> Command | None:
        name = f"start {self.state.role_type}"
        span = self._telemetry.start(name, self._claimed, self._attributes())
        self._set_current(context_in(span))
        of_worker = self.worker_context.log.origin
        self._settlement.origin = replace(of_worker, traceparent=traceparent_of(span))
        try:
            command = await super()._start()
            _mark_outcome(span, command)
        finally:
            span.end()
            # As a parent only: what is set on a span that has ended is lost, with a warning.
            self._set_current(context_in(NonRecordingSpan(span.get_span_context())))
        return command

    def _set_current(self, of: TraceContext) -> None:
        """For the agent's code from now on."""
        self._task.variables.run(context.attach, of)

    def _new_context(self, role: type[Agent]) -> Context:
        made = super()._new_context(role)
        made.tracer = self._tracer
        return made


def _mark_outcome(span: Span, command: Command | None) -> None:
    if isinstance(command, Fail):
        mark_failed(span, command.error.type, command.error.message)
    elif isinstance(command, Release):
        span.set_attribute("muster.reason", command.reason)


def share_provider(telemetry: Telemetry) -> None:
    """Let libraries that agents use export by it, too, unless their code has set up its own."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(telemetry.provider)
