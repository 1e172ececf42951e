"""What `Context.tracer` is where Muster exports no spans: so agents need not ask."""

import sys
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


def untraced() -> "Tracer":
    """The tracer of OpenTelemetry, if the agent's own code uses that; else one that does nothing.

    It is imported by whoever wants spans, never here.
    """
    if (api := sys.modules.get("opentelemetry.trace")) is not None:
        return cast("Tracer", api.get_tracer("muster.agents"))
    return cast("Tracer", _NoTracer())


class _NoSpan(ContextDecorator):
    """Has every method of a span."""

    def __enter__(self) -> "_NoSpan":
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever was raised goes on."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


class _NoTracer:
    def start_span(self, *_: object, **__: object) -> _NoSpan:
        return _NoSpan()

    start_as_current_span = start_span
